"""One item whose parts are players: from masks of its parts to its embedding."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from shapjax.backbones.record import Backbone
from shapjax.backbones.tokeniser import TextPreprocessing
from shapjax.core.checks import one_of
from shapjax.core.errors import ShapjaxError
from shapjax.games.backgrounds import background as picture_background
from shapjax.games.backgrounds import feature_cells
from shapjax.games.foreign import as_function
from shapjax.games.images import load_image
from shapjax.games.masked import MaskedPicture, embed_masked
from shapjax.games.players import grid, label_map
from shapjax.games.tokens import TokenItem, first_tokens, token_embed

TEXT_PLAYERS = ("words", "tokens")
TEXT_BACKGROUNDS = ("drop", "mask")


@dataclasses.dataclass(frozen=True)
class Parts:
    """An item in parts. Calling it takes Boolean masks [B, n] to embeddings [B, C].

    Attributes:
        embed: that function; a ``Partial`` where it is known to be a JAX function.
        n_players: n.
        names: what each part of a text shows, n strings; None for other items.
        labels: the part that each place of the item belongs to, int32; for pictures [S, S],
            for texts [1, n], each part once.
        model: name of the network, or of the kind of model.
        picture: at the network's input size, RGB in [0, 1], float32 [S, S, 3]; None for other
            items.
    """

    embed: Callable[[Any], Any]
    n_players: int
    names: tuple[str, ...] | None
    labels: np.ndarray
    model: str
    picture: np.ndarray | None = dataclasses.field(default=None, repr=False)

    def __call__(self, masks: Any) -> Any:
        """Embeddings [B, C] of the item less the parts that each mask [B, n] leaves out."""
        return self.embed(masks)


def parts(model: Any, item: Any, *, players: Any = None, background: Any = None) -> Parts:
    """An item in parts that can be hidden, for ``shapjax.similarity``.

    =========  ==================================  ============================================
    item       players                             background
    =========  ==================================  ============================================
    a text     ``"words"`` (default), ``"tokens"`` ``"drop"`` (default): hidden tokens are left
                                                   out, the others keep their positions; or
                                                   ``"mask"``: [MASK] stands for them
    a picture  ``"superpixels"`` (default),        ``"blur"`` (default), ``"mean"``,
               ``"grid"`` (cells of the feature    ``"black"``, a picture, a folder; or, for
               map, patches of a transformer),     whole patches of a transformer, ``"drop"``:
               other regions (see                  left out
               ``similarity_game``)
    an array   labels of its first axes; by        an array that broadcasts to it, by default 0
               default each entry of the first
    =========  ==================================  ============================================

    Args:
        model: a backbone from ``shapjax.backbones.load`` (``.text`` for CLIP's texts), for texts
            and pictures; for arrays any model that ``shapjax.games.foreign.as_function`` knows,
            which gets batches [B, ...] of masked arrays.
        item: a text; a picture (path, PIL image, array); or an array [T, ...].
        players: see the table; in an array the label -1 is a place that is never hidden.
        background: what replaces hidden parts; see the table.

    Raises:
        ShapjaxError: a choice is none of these, or the item does not go with the model.
        ImageError: a picture cannot be read.
    """
    if not isinstance(model, Backbone):
        return _of_array(model, item, players, background)
    if isinstance(model.preprocessing, TextPreprocessing):
        return _of_text(model, item, players or "words", background or "drop")
    return _of_picture(
        model,
        item,
        "superpixels" if players is None else players,
        "blur" if background is None else background,
    )


def _of_text(model: Backbone, text: Any, players: str, background: str) -> Parts:
    one_of(players, TEXT_PLAYERS, "players")
    one_of(background, TEXT_BACKGROUNDS, "background")
    pieces = model.preprocessing.pieces(text)
    names, owners = pieces.whole_words() if players == "words" else pieces.tokens()
    hidden = None
    if background == "mask":
        mask = model.preprocessing.mask_number()
        hidden = first_tokens(model, np.where(owners < 0, pieces.numbers, mask))
    tokens = first_tokens(model, pieces.numbers)
    item = TokenItem(model, tokens, hidden, jnp.asarray(owners))
    labels = np.arange(len(names), dtype=np.int32)[None]
    return Parts(token_embed(item), len(names), tuple(names), labels, model.name)


def _of_picture(model: Backbone, source: Any, players: Any, background: Any) -> Parts:
    picture = model.resize(load_image(source), fit="stretch")
    if isinstance(background, str) and background == "drop":
        return _of_patches(model, picture, players)
    labels = label_map(players, picture, feature_cells(model))
    blank = picture_background(background, picture, model)
    n = int(labels.max()) + 1
    masked = MaskedPicture.of(model, picture, blank[None], labels)
    return Parts(Partial(embed_masked, model, masked), n, None, labels, model.name, picture)


def _of_patches(model: Backbone, picture: np.ndarray, players: Any) -> Parts:
    if not hasattr(model.network, "encode"):
        raise ShapjaxError(
            f'background is "drop", but {model.name} has no tokens to leave out; choose "blur", '
            '"mean", "black" or a picture.'
        )
    rows, columns = feature_cells(model)
    if isinstance(players, str):
        if players != "grid":
            raise ShapjaxError(
                f'players is {players!r}, but background="drop" leaves out whole patches; give '
                f'"grid" or labels of the {rows} x {columns} patches.'
            )
        owners = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    else:
        owners = _labels(players, (rows, columns))
    x = model.normalise(jnp.asarray(picture))
    # The class token comes first and is never left out.
    by_token = np.concatenate([[-1], owners.ravel()]).astype(np.int32)
    item = TokenItem(model, first_tokens(model, x), None, jnp.asarray(by_token))
    size = model.preprocessing.size
    labels = owners.ravel()[grid(size, size, rows, columns)]
    return Parts(token_embed(item), int(owners.max()) + 1, None, labels, model.name, picture)


def _of_array(model: Any, item: Any, players: Any, background: Any) -> Parts:
    run = as_function(model)
    whole = np.asarray(item)
    if whole.ndim == 0 or whole.dtype.kind not in "biuf":
        raise ShapjaxError(
            f"the item is a {type(item).__name__}, expected an array of numbers [T, ...]; texts "
            "and pictures need a backbone, anything else a function of masks."
        )
    blank = np.asarray(0 if background is None else background, whole.dtype)
    try:
        blank = np.broadcast_to(blank, whole.shape)
    except ValueError:
        raise ShapjaxError(
            f"the background has shape {blank.shape} and the item {whole.shape}, expected one "
            "that broadcasts to the item."
        ) from None
    given = np.arange(len(whole)) if players is None else np.asarray(players)
    labels = _labels(given, whole.shape[: given.ndim], fixed=True)
    shape = (*labels.shape, *(1,) * (whole.ndim - labels.ndim))

    def embed(masks: Any) -> Any:
        xp = np if isinstance(masks, np.ndarray) else jnp
        shown = xp.where(labels < 0, True, masks[:, labels])
        return run(xp.where(shown.reshape(len(masks), *shape), whole, blank))

    embedding = Partial(embed) if isinstance(run, Partial) else embed
    return Parts(embedding, int(labels.max()) + 1, None, labels, type(model).__name__)


def _labels(players: Any, shape: tuple[int, ...], fixed: bool = False) -> np.ndarray:
    """Labels as int32, if they are whole numbers of that shape that use all from 0 to n - 1.

    Args:
        players: the labels.
        shape: of the places.
        fixed: whether some places may be -1, which belongs to no player.
    """
    labels = np.asarray(players)
    low = -1 if fixed else 0
    used = np.unique(labels[labels >= 0]) if labels.dtype.kind in "iu" else np.array([])
    complete = used.size > 0 and np.array_equal(used, np.arange(used.size))
    if labels.shape != shape or not complete or labels.min() < low:
        raise ShapjaxError(
            f"players have shape {labels.shape} and dtype {labels.dtype}, expected whole numbers "
            f"of shape {shape} that use every number from 0 to n - 1"
            f"{' (-1: never hidden)' if fixed else ''}."
        )
    return labels.astype(np.int32)
