"""Families of games that estimators are measured on: their value tables, one game per seed.

A family gives the worth of every coalition, float64 [seeds, 2**n], bit i of the rank being player
i. Where a game is a formula the tables of all seeds are made by one compiled program.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import shapjax as sj
from shapjax.coalitions.enumerate import all_masks
from shapjax.core.errors import ShapjaxError
from shapjax.core.interactions import load_npz, save_npz
from shapjax.games.masked import MaskedPicture, embed_masked
from shapjax.games.pooled import Grams, cosine_game
from shapjax.games.similarity import similarity_game

PLAYERS = 15
QUERY = 8
"""Players on the query of a pair of pictures; the other seven are on the retrieved one."""

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "retina", "immunohistochemistry")
"""Pictures of the scikit-image wheel that the superpixel games are crops of."""


class Family(NamedTuple):
    """Games of one kind.

    Attributes:
        name: what the command line and the results call it.
        title: what figures call it.
        n: number of players.
        tables: seeds to the worth of all coalitions, float64 [seeds, 2**n].
        identity: changes whenever the games do, so that results of others are not mixed in.
        budgets: evaluations to measure at, evenly spaced on a logarithmic axis, below 2**n.
    """

    name: str
    title: str
    n: int
    tables: Callable[[Sequence[int]], np.ndarray]
    identity: str
    budgets: tuple[int, ...] = tuple(250 << step for step in range(7))


def _formula(name: str, title: str, n: int, table: Callable[[jax.Array], jax.Array]) -> Family:
    """A family whose games are drawn by a pure function of a PRNG key."""
    # Another stream than the one that estimators draw coalitions from, which begins at the seed.
    stream = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")

    @jax.jit
    @jax.vmap
    def of_seed(seed: jax.Array) -> jax.Array:
        return table(jax.random.fold_in(jax.random.key(seed), stream))

    def tables(seeds: Sequence[int]) -> np.ndarray:
        with jax.enable_x64(True):
            return np.asarray(of_seed(jnp.asarray(list(seeds), jnp.uint32)))

    budgets = {} if n == PLAYERS else {"budgets": (40, 60, 90, 130, 180, 240)}
    return Family(name, title, n, tables, "formula", **budgets)


def _network(
    key: jax.Array,
    activation: Callable[[jax.Array], jax.Array],
    biases: float = 0.0,
    width: int = 20,
) -> jax.Array:
    """A three-layer network on the masks, Glorot normal weights, biases N(0, ``biases``**2)."""
    x = all_masks(PLAYERS).astype(jnp.float64)
    sizes = (PLAYERS, width, width, 1)
    for layer, key_layer in enumerate(jax.random.split(key, 3)):
        weights, bias = jax.random.split(key_layer)
        shape = sizes[layer : layer + 2]
        x = x @ (jax.random.normal(weights, shape, jnp.float64) * (2 / sum(shape)) ** 0.5)
        if layer < 2:
            x = activation(x + biases * jax.random.normal(bias, (width,), jnp.float64))
    return x[:, 0]


def _polynomial(key: jax.Array) -> jax.Array:
    """A coefficient U(0, 10) for the product of every subset of the players."""
    return sj.zeta(jax.random.uniform(key, (1 << PLAYERS,), jnp.float64, 0, 10))


def _integers(key: jax.Array) -> jax.Array:
    """A random integer in [0, 10] for every subset of 8 players."""
    return jax.random.randint(key, (1 << 8,), 0, 11).astype(jnp.float64)


RELU = _formula(
    "relu-networks", "ReLU networks (fig. 5)", PLAYERS, lambda key: _network(key, jax.nn.relu)
)
BOOLEAN = _formula("boolean", "Boolean polynomials (fig. 10)", PLAYERS, _polynomial)
INTEGERS = _formula("random-integers", "random integers (v1 fig. 7)", 8, _integers)
# Without biases a tanh network is odd in its inputs, and nearly linear on so few of them.
TANH = _formula(
    "tanh-networks", "tanh networks", PLAYERS, lambda key: _network(key, jnp.tanh, biases=1.0)
)


def families(
    cache: Path,
    squeezenet: str | os.PathLike[str] | None = None,
    pictures: str | os.PathLike[str] | None = None,
) -> tuple[dict[str, Family], dict[str, str]]:
    """Every family by name, and why those that are missing cannot be made.

    Args:
        cache: folder where the tables of games of pictures are kept.
        squeezenet: SqueezeNet's weights; by default those in ``$SHAPJAX_DATA``.
        pictures: folder of photographs (JPEG); by default that in ``$SHAPJAX_DATA``.
    """
    found = {f.name: f for f in (RELU, BOOLEAN, INTEGERS, TANH)}
    found["superpixels"] = _cached(_superpixels(), cache)
    weights = Path(squeezenet or data_at_hand() / "squeezenet_v1_1_imagenet.npz")
    folder = Path(pictures or photographs())
    files = sorted(folder.glob("*.jpg"))
    missing = {}
    if weights.is_file() and len(files) > 1:
        found["gap-cosine"] = _cached(_gap_cosine(weights, files), cache)
    else:
        missing["gap-cosine"] = (
            f"no weights {weights} with photographs {folder}/*.jpg; give --squeezenet and "
            "--pictures, or set $SHAPJAX_DATA"
        )
    return found, missing


def data_at_hand() -> Path:
    """The folder of real weights and pictures, which need not be there."""
    return Path(os.environ.get("SHAPJAX_DATA") or Path(__file__).parents[2] / "shared" / "data")


def photographs() -> Path:
    """The folder of Pascal VOC's photographs in it, likewise."""
    return data_at_hand() / "voc_mini" / "JPEGImages"


def _cached(family: Family, folder: Path) -> Family:
    """The same family, each table made once and then read from ``folder``."""

    def tables(seeds: Sequence[int]) -> np.ndarray:
        paths = {seed: folder / f"{family.name}-{family.identity}-{seed}.npz" for seed in seeds}
        missing = [seed for seed, path in paths.items() if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for seed in missing:
            save_npz(paths[seed], {"worth": family.tables([seed])[0]})
        return np.stack([load_npz(path)["worth"] for path in paths.values()])

    return family._replace(tables=tables)


def _gap_cosine(weights: Path, files: list[Path]) -> Family:
    """Cosine of pooled SqueezeNet features of consecutive photographs, 8 + 7 bands of locations."""

    @functools.cache
    def backbone() -> sj.backbones.Backbone:
        return sj.backbones.load("squeezenet1_1", weights=weights)

    def tables(seeds: Sequence[int]) -> np.ndarray:
        found = []
        with jax.enable_x64(True):
            for seed in seeds:
                pair = [files[(2 * seed + side) % len(files)] for side in (0, 1)]
                grams = similarity_game(backbone(), *pair).grams
                assert grams is not None
                found.append(grouped(grams, QUERY, PLAYERS - QUERY))
            stacked = jax.tree.map(lambda *x: jnp.stack(x), *found)
            worth = jax.jit(jax.vmap(lambda grams: cosine_game(grams)(all_masks(PLAYERS))))
            return np.asarray(worth(stacked))

    identity = _digest(weights.name, *(file.name for file in files))
    return Family("gap-cosine", "pooled features of photographs", PLAYERS, tables, identity)


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def grouped(grams: Grams, query: int, retrieved: int) -> Grams:
    """The game whose players are bands of consecutive locations; backgrounds keep their rows."""

    def owners(count: int, groups: int) -> np.ndarray:
        owner = np.append(0, 1 + np.arange(count) * groups // count)
        return (np.arange(groups + 1)[:, None] == owner).astype(float)

    q, r = owners(grams.n_query, query), owners(grams.n_retrieved, retrieved)
    return Grams(q @ grams.qq @ q.T, q @ grams.qr @ r.T, r @ grams.rr @ r.T)


def _superpixels() -> Family:
    """Cosine of the embedded network on two masked crops of a photograph, 8 + 7 superpixels."""

    def tables(seeds: Sequence[int]) -> np.ndarray:
        return np.stack([tower_table(*superpixel_pair(seed)) for seed in seeds])

    identity = _digest(PHOTOGRAPHS, QUERY, PLAYERS)
    return Family("superpixels", "superpixels, embedded network", PLAYERS, tables, identity)


def superpixel_pair(seed: int) -> tuple[sj.backbones.Backbone, MaskedPicture, MaskedPicture]:
    """The network and two crops of a photograph, cut into 8 and 7 players."""
    from skimage import data

    rng = np.random.default_rng(seed)
    photograph = np.asarray(getattr(data, PHOTOGRAPHS[seed % len(PHOTOGRAPHS)])())[..., :3]
    crops = []
    for _ in range(2):
        side = int(rng.uniform(0.5, 0.9) * min(photograph.shape[:2]))
        top, left = (rng.integers(length - side + 1) for length in photograph.shape[:2])
        crops.append(photograph[top : top + side, left : left + side])
    backbone = sj.backbones.load("shapjax_tiny")
    game = similarity_game(backbone, *crops, players="superpixels")
    query, retrieved = game.value_fn.sides
    return backbone, _merged(query, QUERY), _merged(retrieved, PLAYERS - QUERY)


def _merged(side: MaskedPicture, players: int) -> MaskedPicture:
    """Fewer players: superpixels with consecutive labels, which are neighbours, become one."""
    count = side.n_players
    if count < players:
        raise ShapjaxError(f"a picture has {count} superpixels, expected at least {players}.")
    return side.relabelled(side.labels * players // count)


def tower_table(
    backbone: sj.backbones.Backbone, query: MaskedPicture, retrieved: MaskedPicture
) -> np.ndarray:
    """Cosines of every masked query with every masked retrieved picture, float64 [2**n].

    The sides meet in the cosine alone, so 2**q + 2**r pictures go through the network, not 2**n.
    """
    a, b = _embeddings(backbone, query), _embeddings(backbone, retrieved)
    return (b @ a.T).ravel()


_embed = jax.jit(embed_masked)


def _embeddings(backbone: sj.backbones.Backbone, side: MaskedPicture) -> np.ndarray:
    """Unit embeddings of a picture under all masks of its players, float64 [2**k, C]."""
    masks = np.asarray(all_masks(side.n_players))
    parts = [
        np.asarray(_embed(backbone, side, masks[start : start + 64]), np.float64)
        for start in range(0, len(masks), 64)
    ]
    found = np.concatenate(parts)
    return found / np.linalg.norm(found, axis=1, keepdims=True)
