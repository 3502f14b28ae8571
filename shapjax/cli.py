"""The command line: ``shapjax explain``."""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from shapjax.core.errors import ShapjaxError

if TYPE_CHECKING:
    from PIL import Image

    from shapjax.explainers.explanation import Explanation


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (2 for bad input)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        options = _parser().parse_args(arguments)
        options.run(options)
    except ShapjaxError as error:
        return _fail(str(error))
    except MemoryError:
        return _fail("memory ran out; lower --budget or use smaller pictures.")
    except KeyboardInterrupt:
        print("shapjax: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; Python must not try to flush it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" in str(error):
            return _fail("the device's memory ran out; lower --budget or use smaller pictures.")
        raise
    return 0


def _fail(message: str) -> int:
    from shapjax.core.files import printable

    print(f"shapjax: error: {printable(message)}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    from shapjax import __version__, backbones
    from shapjax.explainers.explain import METHODS

    parser = argparse.ArgumentParser(
        prog="shapjax", description="Fair credit assignment for similarity models."
    )
    parser.add_argument("--version", action="version", version=f"shapjax {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    explain = commands.add_parser(
        "explain",
        help="explain why two pictures or two texts match",
        description="Explain why two pictures match, or with --text two texts. Without pictures "
        "it explains the stereo motorcycle pair that scikit-image ships.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    explain.set_defaults(run=_explain)
    explain.add_argument("query", nargs="?", metavar="QUERY", help="picture or text searched with")
    explain.add_argument("retrieved", nargs="?", metavar="RETRIEVED", help="picture or text found")
    explain.add_argument("--text", action="store_true", help="QUERY and RETRIEVED are texts")
    explain.add_argument(
        "--backbone",
        choices=backbones.names(),
        help=f"by default {backbones.names()[0]}, for texts {TEXT_BACKBONE}",
    )
    explain.add_argument(
        "--weights",
        metavar="PATH",
        help="weight file of the backbone, a folder of the hub's, or which of the published ones",
    )
    explain.add_argument(
        "--method",
        choices=tuple(METHODS),
        help="by default gram-sam for features, two-tower for regions and texts",
    )
    explain.add_argument(
        "--order", type=int, default=2, choices=(1, 2), help="1: heat maps; 2: correspondence"
    )
    explain.add_argument(
        "--players",
        metavar="features|superpixels|pixels|grid|RxC|PNG|words|tokens",
        help="parts; the method's own by default, for texts words; a PNG is a label map",
    )
    for side in ("query", "retrieved"):
        explain.add_argument(
            f"--{side}-players", metavar="...", help=f"regions of the {side} picture alone"
        )
    explain.add_argument(
        "--budget", type=int, metavar="N", help="coalitions to evaluate; the paper's by default"
    )
    explain.add_argument(
        "--background",
        action="append",
        metavar="blur|mean|black|zero|PATH|drop|mask",
        help="what replaces masked parts: also a picture, or a folder (its mean); several are "
        "averaged; the method's own by default; of texts drop or mask",
    )
    explain.add_argument(
        "--rather-than",
        action="append",
        metavar="PATH",
        help="a picture that might have been found instead: why RETRIEVED rather than that one",
    )
    explain.add_argument("--seed", type=int, default=0, metavar="N", help="of the random numbers")
    explain.add_argument("--out", default="shapjax-out", metavar="DIR", help="folder to write into")
    explain.add_argument("--quiet", action="store_true", help="show no progress")
    return parser


OUTPUTS = (
    "summary.json",
    "report.html",
    "explanation.npz",
    "explanation_query.npz",
    "heat_query.png",
    "heat_retrieved.png",
    "correspondence.png",
    "matrix.png",
)

TEXT_BACKBONE = "minilm_l6"

EXAMPLE = ("How do I teach a puppy not to bite?", "Train your young dog to play without its teeth.")


class _Pair(NamedTuple):
    """Two pictures or two texts and what to call them."""

    query: Image.Image | str
    retrieved: Image.Image | str
    query_name: str
    retrieved_name: str


def _explain(options: argparse.Namespace) -> None:
    import jax

    from shapjax import backbones

    if not options.out:
        raise ShapjaxError("--out is empty, expected a folder; name one.")
    out = _writable_folder(Path(options.out))
    pair = _read_texts(options) if options.text else _read_pair(options)
    if options.backbone is None:
        options.backbone = TEXT_BACKBONE if options.text else backbones.names()[0]
    # A process of its own may choose the precision: networks stay in float32, games do not.
    jax.config.update("jax_enable_x64", True)
    model = backbones.load(options.backbone, weights=options.weights)
    if options.text:
        model = _reader(model)
    main_one, other = _run(options, model, pair)
    summary = _summary(options, pair, main_one, other)
    _write(out, pair, main_one, other, summary)
    if not options.quiet:
        try:
            print(_closing(out, summary), flush=True)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise ShapjaxError(f"everything is written, but not shown ({error}).") from None


def _read_texts(options: argparse.Namespace) -> _Pair:
    if options.query is not None and options.retrieved is None:
        raise ShapjaxError(
            "got one text, expected QUERY and RETRIEVED; give a second one, or none for the "
            "built-in pair."
        )
    texts = EXAMPLE if options.query is None else (options.query, options.retrieved)
    return _Pair(*texts, *texts)


def _reader(model: Any) -> Any:
    """The backbone itself if it reads texts, else its tower that does."""
    from shapjax.backbones.tokeniser import TextPreprocessing

    return model if isinstance(model.preprocessing, TextPreprocessing) else model.text


def _read_pair(options: argparse.Namespace) -> _Pair:
    from shapjax.games.images import load_image

    if options.query is None:
        from skimage import data

        left, right, _ = data.stereo_motorcycle()
        return _Pair(load_image(left), load_image(right), "motorcycle, left", "motorcycle, right")
    if options.retrieved is None:
        raise ShapjaxError(
            "got one picture, expected QUERY and RETRIEVED; name a second one, or none for the "
            "built-in pair."
        )
    return _Pair(
        load_image(options.query),
        load_image(options.retrieved),
        Path(options.query).name,
        Path(options.retrieved).name,
    )


def _run(
    options: argparse.Namespace, model: Any, pair: _Pair
) -> tuple[Explanation, Explanation | None]:
    """The explanation; at first order that of the retrieved picture, then of the query."""
    from shapjax.explainers.explain import default_method, explain

    sides = ("retrieved", "query") if options.order == 1 else (None,)
    if options.order == 1 and options.rather_than:
        sides = ("retrieved",)
    players = _players(options)
    method = options.method or ("two-tower" if options.text else default_method(players))
    background = options.background
    if background is not None and len(background) == 1:
        background = background[0]
    found = []
    for side in sides:
        what = f"{method}, {side} side" if options.order == 1 else method
        with _Bar(what, options.quiet) as bar:
            explanation = explain(
                model,
                pair.query,
                pair.retrieved,
                method=method,
                order=options.order,
                side=side,
                players=players,
                background=background,
                rather_than=options.rather_than,
                budget=options.budget,
                key=options.seed,
                progress=bar.update,
            )
        found.append(explanation)
    return found[0], found[1] if len(found) == 2 else None


def _players(options: argparse.Namespace) -> Any:
    """What plays: one kind for both pictures, or each picture's own."""
    if options.query_players is None and options.retrieved_players is None:
        return options.players
    both = options.players or "superpixels"
    return {
        "query": options.query_players or both,
        "retrieved": options.retrieved_players or both,
    }


class _Bar:
    """A progress bar on standard error that learns its length when work begins."""

    def __init__(self, what: str, quiet: bool) -> None:
        from tqdm import tqdm

        self._bar = tqdm(desc=what, unit=" coalitions", disable=quiet, file=sys.stderr)

    def __enter__(self) -> _Bar:
        self._bar.refresh()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` coalitions are evaluated."""
        self._bar.total = total
        self._bar.update(done - self._bar.n)


def _writable_folder(folder: Path) -> Path:
    """The folder, made if absent and tried before any work begins."""
    if any((folder / name).is_dir() for name in OUTPUTS):
        raise ShapjaxError(
            f"{folder} holds a folder named as an output; choose another with --out."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ShapjaxError(
            f"cannot write into {folder} ({error.strerror}); choose another folder with --out."
        ) from None
    return folder


def _summary(
    options: argparse.Namespace, pair: _Pair, found: Explanation, other: Explanation | None
) -> dict[str, Any]:
    from importlib import metadata

    import jax
    import numpy as np

    from shapjax import __version__
    from shapjax.explainers.explain import METHODS

    usual = "drop" if options.text else METHODS[found.method].background

    def one_or_all(names: list[str]) -> Any:
        return names[0] if len(names) == 1 else names

    summary: dict[str, Any] = {
        "query": pair.query_name,
        "retrieved": pair.retrieved_name,
        "backbone": found.backbone,
        "method": found.method,
        "order": found.order,
        **_numbers(found),
        "background": one_or_all(options.background or [usual]),
        **({"rather_than": one_or_all(options.rather_than)} if options.rather_than else {}),
        "seed": options.seed,
    }
    if other is not None:
        summary["query_side"] = _numbers(other)
    summary["versions"] = {
        "shapjax": __version__,
        "jax": jax.__version__,
        "jaxlib": metadata.version("jaxlib"),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    summary["device"] = jax.devices()[0].device_kind
    return summary


def _numbers(explanation: Explanation) -> dict[str, Any]:
    return {
        "similarity": explanation.similarity,
        "v_grand": explanation.v_grand,
        "v_empty": explanation.v_empty,
        "inefficiency": explanation.inefficiency,
        "evaluations": explanation.evaluations,
        "seconds": round(explanation.seconds, 3),
        "n_query": explanation.n_query,
        "n_retrieved": explanation.n_retrieved,
    }


def _write(
    out: Path,
    pair: _Pair,
    found: Explanation,
    other: Explanation | None,
    summary: dict[str, Any],
) -> None:
    from shapjax.core.files import write_whole

    for name in OUTPUTS:
        # Nothing of an earlier run may stand beside what this one writes.
        (out / name).unlink(missing_ok=True)
    found.save(out / "explanation.npz")
    if other is not None:
        other.save(out / "explanation_query.npz")
    draw = _draw_texts if isinstance(pair.query, str) else _draw_pictures
    draw(out, pair, found, other, summary)
    # Last, so that a folder with a summary is a whole one.
    write_whole(out / "summary.json", json.dumps(summary, indent=2).encode() + b"\n")


def _draw_texts(
    out: Path,
    _: _Pair,
    found: Explanation,
    other: Explanation | None,
    summary: dict[str, Any],
) -> None:
    from shapjax.report.matrix import save_matrix
    from shapjax.report.text_page import write_text_page

    query, retrieved = found.query_names or (), found.retrieved_names or ()
    heats = {
        "query": ((other or found).heat("query"), query),
        "retrieved": (found.heat("retrieved"), retrieved),
    }
    for side, (heat, names) in heats.items():
        save_matrix(heat[None], [""], names, out / f"heat_{side}.png", label="credit")
    if other is None:
        what = "interaction of query word (row) and retrieved word"
        save_matrix(found.cross, query, retrieved, out / "matrix.png", label=what)
    write_text_page(found, out / "report.html", summary=summary, also=other)


def _draw_pictures(
    out: Path,
    pair: _Pair,
    found: Explanation,
    other: Explanation | None,
    summary: dict[str, Any],
) -> None:
    from shapjax.report.figures import save_correspondence, save_heat_map
    from shapjax.report.page import write_page

    assert not isinstance(pair.query, str)
    assert not isinstance(pair.retrieved, str)
    if (other or found).query_players is not None:
        save_heat_map(other or found, "query", pair.query, out / "heat_query.png")
    save_heat_map(found, "retrieved", pair.retrieved, out / "heat_retrieved.png")
    if found.order == 2:
        save_correspondence(found, pair.query, pair.retrieved, out / "correspondence.png")
    write_page(
        found,
        pair.query,
        pair.retrieved,
        out / "report.html",
        query_name=pair.query_name,
        retrieved_name=pair.retrieved_name,
        summary=summary,
        also=other,
    )


def _closing(out: Path, summary: dict[str, Any]) -> str:
    from shapjax.core.files import printable

    lines = [f"{key}: {summary[key]:.6g}" for key in ("similarity", "v_grand", "v_empty")]
    lines.append(f"inefficiency: {summary['inefficiency']:.2g}")
    lines.append(f"evaluations: {summary['evaluations']}, seconds: {summary['seconds']:.1f}")
    return "\n".join([*lines, f"written: {printable(str(out / 'report.html'))}"])


if __name__ == "__main__":
    sys.exit(main())
