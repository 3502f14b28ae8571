"""shapjax: fair credit assignment for similarity models."""

from shapjax import backbones
from shapjax.core.errors import (
    DtypeError,
    ImageError,
    MemoryRefused,
    ShapjaxError,
    ValueFunctionError,
    WeightsError,
)
from shapjax.core.evaluate import ValueFunction, evaluate
from shapjax.core.interactions import Interactions
from shapjax.estimators.estimate import estimate
from shapjax.explainers.explain import explain
from shapjax.explainers.explanation import Explanation
from shapjax.games.images import load_image
from shapjax.games.similarity import SimilarityGame, similarity_game
from shapjax.indices.cardinal import CardinalIndex
from shapjax.indices.exact import interactions, shapley_value
from shapjax.indices.rows import index_names
from shapjax.transforms.moebius import moebius, zeta

__version__ = "0.1.0"

__all__ = [
    "CardinalIndex",
    "DtypeError",
    "Explanation",
    "ImageError",
    "Interactions",
    "MemoryRefused",
    "ShapjaxError",
    "SimilarityGame",
    "ValueFunction",
    "ValueFunctionError",
    "WeightsError",
    "backbones",
    "estimate",
    "evaluate",
    "explain",
    "index_names",
    "interactions",
    "load_image",
    "moebius",
    "shapley_value",
    "similarity_game",
    "zeta",
]
