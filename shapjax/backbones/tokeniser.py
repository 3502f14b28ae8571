"""Texts as numbers of tokens, by the vocabulary that lies beside the weights."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from shapjax.core.errors import ShapjaxError, WeightsError

VOCABULARY = "tokenizer.json"
"""The file of a tokeniser as ``tokenizers`` writes it."""

MAX_FILE_BYTES = 64 * 1024**2
"""Largest vocabulary that is read; those of BERT and CLIP have less than 3 MiB."""

MAX_CHARACTERS = 100_000
"""Longest text; the networks here read a few hundred tokens."""


class Pieces(NamedTuple):
    """One text as its network reads it.

    Attributes:
        numbers: of all tokens, int32 [T], those that begin and end the text included.
        words: which word of the text each token belongs to, from 0, int32 [T]; -1 for tokens
            that belong to none.
        spans: characters of the text that each token stands for, int32 [T, 2].
        text: the text.
    """

    numbers: np.ndarray
    words: np.ndarray
    spans: np.ndarray
    text: str

    def tokens(self) -> tuple[list[str], np.ndarray]:
        """What each player shows, and its tokens: every token of the text is a player.

        Returns:
            Names [n] and the player of each token, int32 [T]; -1 for tokens of no player.
        """
        inside = self.words >= 0
        players = np.where(inside, np.cumsum(inside) - 1, -1).astype(np.int32)
        return [self.text[start:stop] for start, stop in self.spans[inside]], players

    def whole_words(self) -> tuple[list[str], np.ndarray]:
        """The same with the words of the text as players."""
        found, players = np.unique(self.words[self.words >= 0], return_inverse=True)
        labels = np.full(len(self.words), -1, np.int32)
        labels[self.words >= 0] = players
        bounds = [self.spans[self.words == word] for word in found]
        return [self.text[span[:, 0].min() : span[:, 1].max()] for span in bounds], labels


@dataclasses.dataclass(frozen=True)
class TextPreprocessing:
    """How a publisher turns a text into numbers of tokens.

    Attributes:
        length: tokens that the network reads at most; longer texts are cut.
        padding: number that fills short texts up in a batch.
        vocabulary: a tokeniser as ``tokenizers`` writes it (JSON); None: there is none yet.
        mask: name of the token that stands for a hidden one, if the vocabulary has one.
    """

    length: int
    padding: int
    vocabulary: str | None = None
    mask: str | None = "[MASK]"

    def pieces(self, text: str) -> Pieces:
        """The tokens of one text.

        Raises:
            ShapjaxError: no text, an empty one, or no vocabulary.
        """
        if not isinstance(text, str) or not text.strip() or len(text) > MAX_CHARACTERS:
            came = repr(text[:40]) if isinstance(text, str) else f"a {type(text).__name__}"
            raise ShapjaxError(
                f"got {came}, expected a text of 1 to {MAX_CHARACTERS} characters; give a string."
            )
        found = _tokeniser(self._needed(), self.length).encode(text)
        inside = np.array(found.special_tokens_mask) == 0
        words = [-1 if word is None else word for word in found.word_ids]
        if not inside.any():
            raise ShapjaxError(f"the text {text[:40]!r} has no token; give one with words.")
        return Pieces(
            np.array(found.ids, np.int32),
            np.where(inside, words, -1).astype(np.int32),
            np.array(found.offsets, np.int32),
            text,
        )

    def prepare(self, text: str | Sequence[str]) -> np.ndarray:
        """Numbers of tokens: int32 [T] of one text, [B, T] of several, filled up to the longest.

        Raises:
            ShapjaxError: no text, an empty one, or no vocabulary.
        """
        if isinstance(text, str):
            return self.pieces(text).numbers
        rows = [self.pieces(one).numbers for one in text]
        if not rows:
            raise ShapjaxError("got no text, expected one or more; give a string or a list.")
        batch = np.full((len(rows), max(map(len, rows))), self.padding, np.int32)
        for row, numbers in zip(batch, rows, strict=True):
            row[: len(numbers)] = numbers
        return batch

    def beside(self, folder: Path) -> TextPreprocessing:
        """The same with the vocabulary that lies in a folder, if one does."""
        return dataclasses.replace(self, vocabulary=read_vocabulary(folder))

    def mask_number(self) -> int:
        """The number of the token that stands for a hidden one.

        Raises:
            ShapjaxError: the vocabulary has none.
        """
        found = None
        if self.mask is not None:
            found = _tokeniser(self._needed(), self.length).token_to_id(self.mask)
        if found is None:
            raise ShapjaxError(
                "this vocabulary has no token for a hidden one; leave tokens out instead, with "
                'background="drop".'
            )
        return found

    def _needed(self) -> str:
        if self.vocabulary is None:
            raise ShapjaxError(
                "the network has weights but no vocabulary; load it from a folder that holds "
                "tokenizer.json (or vocab.txt, or vocab.json and merges.txt) beside the weights."
            )
        return self.vocabulary


@functools.lru_cache(maxsize=8)
def _tokeniser(vocabulary: str, length: int) -> Any:
    try:
        tokeniser = _library().Tokenizer.from_str(vocabulary)
    except ShapjaxError:
        raise
    except Exception as error:  # the library raises plain exceptions
        raise WeightsError(
            f"tokenizer.json is damaged or no vocabulary ({str(error)[:120]}); download it again."
        ) from None
    tokeniser.no_padding()
    tokeniser.enable_truncation(length)
    return tokeniser


def _library() -> Any:
    try:
        return importlib.import_module("tokenizers")
    except ImportError:
        raise ShapjaxError(
            "texts need the package tokenizers, which is not installed; "
            "pip install 'shapjax[text]'."
        ) from None


def read_vocabulary(folder: Path) -> str | None:
    """The vocabulary in a folder of the hub's files or of CLIP's authors, as JSON; else None.

    Looks for ``tokenizer.json``; ``vocab.txt`` (BERT, in lower case); ``vocab.json`` with
    ``merges.txt``, or ``bpe_simple_vocab_16e6.txt.gz`` (CLIP).

    Raises:
        WeightsError: a file is too large, damaged or no vocabulary.
        ShapjaxError: the package tokenizers is not installed.
    """
    for files, read in _READERS.items():
        paths = [folder / name for name in files]
        if not all(path.is_file() for path in paths):
            continue
        if any(path.stat().st_size > MAX_FILE_BYTES for path in paths):
            raise WeightsError(f"{paths[0]} is larger than 64 MiB, expected a vocabulary.")
        try:
            return read(*paths)
        except ShapjaxError:
            raise
        except Exception as error:  # parsers raise whatever a damaged file makes them raise
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:120]
            raise WeightsError(
                f"{paths[0]} is damaged or no vocabulary ({reason}); download it again."
            ) from None
    return None


def _read_json(path: Path) -> str:
    return path.read_text("utf-8")


def _read_wordpiece(path: Path) -> str:
    words = path.read_text("utf-8").splitlines()
    vocabulary = {word: number for number, word in enumerate(words)}
    make = _library().implementations.BertWordPieceTokenizer
    return make(vocabulary, lowercase=True).to_str()


def _read_bpe(vocabulary: Path, merges: Path) -> str:
    lines = merges.read_text("utf-8").splitlines()
    pairs = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
    return _bpe(json.loads(vocabulary.read_text("utf-8")), pairs)


def _read_authors_bpe(path: Path) -> str:
    with gzip.open(path) as stream:
        text = stream.read(MAX_FILE_BYTES).decode("utf-8")
    # Room for 49,152 tokens less 256 bytes, alone and at a word's end, and two special ones.
    pairs = [tuple(line.split()) for line in text.split("\n")[1 : 49152 - 256 - 2 + 1]]
    letters = _byte_letters()
    words = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, pairs)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return _bpe({word: number for number, word in enumerate(words)}, pairs)


def _byte_letters() -> list[str]:
    """The letters that stand for the 256 bytes, in the authors' order: printable ones first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [*map(chr, printable), *(chr(256 + n) for n in range(256 - len(printable)))]


def _bpe(vocabulary: dict[str, int], pairs: Sequence[tuple[str, ...]]) -> str:
    """CLIP's tokeniser.

    Source: ``simple_tokenizer.py`` of openai/CLIP; the steps as ``CLIPTokenizer`` of the hub has
    them. Repairs of broken encodings (ftfy) and HTML entities are not undone.
    """
    library = _library()
    begin, end = "<|startoftext|>", "<|endoftext|>"
    tokeniser = library.Tokenizer(
        library.models.BPE(
            vocabulary, [(a, b) for a, b in pairs], unk_token=end, end_of_word_suffix="</w>"
        )
    )
    tokeniser.normalizer = library.normalizers.Sequence(
        [
            library.normalizers.NFC(),
            library.normalizers.Replace(library.Regex(r"\s+"), " "),
            library.normalizers.Lowercase(),
        ]
    )
    words = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    tokeniser.pre_tokenizer = library.pre_tokenizers.Sequence(
        [
            library.pre_tokenizers.Split(library.Regex(words), behavior="removed", invert=True),
            library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokeniser.add_special_tokens([begin, end])
    tokeniser.post_processor = library.processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        special_tokens=[(begin, vocabulary[begin]), (end, vocabulary[end])],
    )
    return tokeniser.to_str()


_READERS = {
    (VOCABULARY,): _read_json,
    ("vocab.txt",): _read_wordpiece,
    ("vocab.json", "merges.txt"): _read_bpe,
    ("bpe_simple_vocab_16e6.txt.gz",): _read_authors_bpe,
}
