"""shapjax: fair credit assignment for similarity models."""

from shapjax import backbones, estimators, evaluate
from shapjax.coalitions import families
from shapjax.core.errors import (
    DtypeError,
    ImageError,
    MemoryRefused,
    NotFiniteError,
    ShapjaxError,
    ValueFunctionError,
    WeightsError,
)
from shapjax.core.interactions import Interactions
from shapjax.core.worths import ValueFunction, worths
from shapjax.estimators.estimate import estimate
from shapjax.estimators.evaluations import Evaluations
from shapjax.estimators.two_tower import estimate_two_tower
from shapjax.explainers.batch import Failure, PairsError, explain_pairs, explain_stream
from shapjax.explainers.explain import explain
from shapjax.explainers.explanation import Explanation
from shapjax.explainers.towers import explain_parts
from shapjax.explainers.transport import project, propagate_labels, transport_plan
from shapjax.games.folder import search
from shapjax.games.images import load_image
from shapjax.games.pairs import PairGame, similarity
from shapjax.games.parts import Parts, parts
from shapjax.games.similarity import SimilarityGame, similarity_game
from shapjax.indices import sharded
from shapjax.indices.cardinal import CardinalIndex
from shapjax.indices.core import CoreCheck, LeastCore, in_core, least_core, nucleolus
from shapjax.indices.exact import interactions, shapley_value
from shapjax.indices.jagged import jagged
from shapjax.indices.rows import index_names
from shapjax.indices.structured import myerson_value, owen_value, weighted_shapley_value
from shapjax.transforms import sharing
from shapjax.transforms.moebius import moebius, zeta

__version__ = "0.1.0"

__all__ = [
    "CardinalIndex",
    "CoreCheck",
    "DtypeError",
    "Evaluations",
    "Explanation",
    "Failure",
    "ImageError",
    "Interactions",
    "LeastCore",
    "MemoryRefused",
    "NotFiniteError",
    "PairGame",
    "PairsError",
    "Parts",
    "ShapjaxError",
    "SimilarityGame",
    "ValueFunction",
    "ValueFunctionError",
    "WeightsError",
    "backbones",
    "estimate",
    "estimate_two_tower",
    "estimators",
    "evaluate",
    "explain",
    "explain_pairs",
    "explain_parts",
    "explain_stream",
    "families",
    "in_core",
    "index_names",
    "interactions",
    "jagged",
    "least_core",
    "load_image",
    "moebius",
    "myerson_value",
    "nucleolus",
    "owen_value",
    "parts",
    "project",
    "propagate_labels",
    "search",
    "shapley_value",
    "sharded",
    "sharing",
    "similarity",
    "similarity_game",
    "transport_plan",
    "weighted_shapley_value",
    "worths",
    "zeta",
]
