"""The command line: ``shapjax explain``, ``shapjax search`` and ``shapjax evaluate``."""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shapjax.core.bars import Bar
from shapjax.core.errors import ShapjaxError

if TYPE_CHECKING:
    from PIL import Image

    from shapjax.explainers.explanation import Explanation
    from shapjax.report.outputs import Pair


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
    from shapjax import __version__
    from shapjax.evaluate import command
    from shapjax.explainers.explain import METHODS

    parser = argparse.ArgumentParser(
        prog="shapjax", description="Fair credit assignment for similarity models."
    )
    parser.add_argument("--version", action="version", version=f"shapjax {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    explain = commands.add_parser(
        "explain",
        help="explain why two pictures or two texts match",
        description="Explain why two pictures match, or with --text two texts, or a text and a "
        "picture where the backbone has towers for both. Without pictures it explains the stereo "
        "motorcycle pair that scikit-image ships.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    explain.set_defaults(run=_explain)
    explain.add_argument("query", nargs="?", metavar="QUERY", help="picture or text searched with")
    explain.add_argument("retrieved", nargs="?", metavar="RETRIEVED", help="picture or text found")
    explain.add_argument(
        "--text", action="store_true", help="QUERY and RETRIEVED are texts, or one is"
    )
    _add_network(explain)
    which = explain.add_mutually_exclusive_group()
    which.add_argument(
        "--method",
        choices=tuple(METHODS),
        help="by default gram-sam for features, two-tower for regions and texts",
    )
    which.add_argument(
        "--methods",
        metavar="all|NAME,NAME,...",
        help="compare several on one page; all leaves out those that the other options rule out",
    )
    _add_settings(explain, "shapjax-out")
    explain.add_argument(
        "--rather-than",
        action="append",
        metavar="PATH",
        help="a picture that might have been found instead: why RETRIEVED rather than that one",
    )
    explain.add_argument(
        "--figures", choices=("png", "svg", "pdf"), default="png", help="format of the figures"
    )
    explain.add_argument("--json", action="store_true", help="write explanations as JSON too")
    search = commands.add_parser(
        "search",
        help="find the pictures nearest to one, and explain why",
        description="Find the pictures of a folder that are nearest to QUERY, explain each match "
        "and write a gallery. The folder is embedded once; what cannot be read is listed.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    search.set_defaults(run=_search)
    search.add_argument("query", metavar="QUERY", help="picture to search with")
    search.add_argument("folder", metavar="FOLDER", help="of pictures, with all folders in it")
    search.add_argument("--top", type=int, default=12, metavar="K", help="how many to find")
    _add_network(search)
    search.add_argument(
        "--method",
        choices=tuple(METHODS),
        help="by default gram-sam for features, two-tower for regions",
    )
    _add_settings(search, "shapjax-search")
    search.add_argument(
        "--open",
        action=argparse.BooleanOptionalAction,
        help="show the gallery in the browser; by default where someone is there to see it: the "
        "output is a terminal and there is a display",
    )
    evaluate = commands.add_parser(
        "evaluate",
        help="compute the paper's tables on a data set",
        description="Pair the pictures of a data set, explain every pair by every method, measure "
        "the explanations and set the means beside the published ones. Ended at any moment, the "
        "same command goes on.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.add_arguments(evaluate)
    return parser


def _add_network(command: argparse.ArgumentParser) -> None:
    from shapjax import backbones

    command.add_argument(
        "--backbone",
        choices=backbones.names(),
        help=f"by default {backbones.names()[0]}, for texts {TEXT_BACKBONE}",
    )
    command.add_argument(
        "--weights",
        metavar="PATH",
        help="weight file of the backbone, a folder of the hub's, or which of the published ones",
    )


def _add_settings(command: argparse.ArgumentParser, out: str) -> None:
    """What both commands ask about explanations."""
    command.add_argument(
        "--order",
        type=int,
        choices=(1, 2),
        help="1: heat maps; 2: correspondence; by default 2 where the method has it",
    )
    command.add_argument(
        "--players",
        metavar="features|superpixels|pixels|grid|RxC|PNG|words|tokens",
        help="parts; the method's own by default, for texts words; a PNG is a label map",
    )
    for side in ("query", "retrieved"):
        command.add_argument(
            f"--{side}-players", metavar="...", help=f"regions of the {side} picture alone"
        )
    command.add_argument(
        "--budget", type=int, metavar="N", help="coalitions to evaluate; the paper's by default"
    )
    command.add_argument(
        "--background",
        action="append",
        metavar="blur|mean|black|zero|PATH|drop|mask",
        help="what replaces masked parts: also a picture, or a folder (its mean); several are "
        "averaged; the method's own by default; of texts drop or mask; drop leaves patches of a "
        "transformer out, in explain by two-tower",
    )
    command.add_argument(
        "--bilinear",
        action="store_true",
        help="lime and fixlip at order 2: without pairs of parts of one picture",
    )
    command.add_argument(
        "--errors",
        action="store_true",
        help="standard errors of kernel-sam, kernel-shap and lime at order 2 too, by 24 more fits",
    )
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of the random numbers")
    command.add_argument("--out", default=out, metavar="DIR", help="folder to write into")
    command.add_argument("--quiet", action="store_true", help="show no progress")


TEXT_BACKBONE = "minilm_l6"

EXAMPLE = ("How do I teach a puppy not to bite?", "Train your young dog to play without its teeth.")


def _explain(options: argparse.Namespace) -> None:
    from shapjax.report.outputs import write_outputs

    out = _out(options)
    if options.text and options.methods:
        raise ShapjaxError("of texts there is one method, two-tower; leave --methods out.")
    pair = _read_texts(options) if options.text else _read_pair(options)
    model = _model(options)
    found, left_out = _run(options, model, pair)
    summary = _summary(options, pair, found, left_out)
    write_outputs(out, pair, found, summary, ending=options.figures, as_json=options.json)
    _say(options, _closing(out, summary))


def _out(options: argparse.Namespace, outputs: Sequence[str] | None = None) -> Path:
    """The folder to write into, tried before any work begins."""
    from shapjax.report.outputs import OUTPUTS, writable_folder

    if not options.out:
        raise ShapjaxError("--out is empty, expected a folder; name one.")
    return writable_folder(Path(options.out), OUTPUTS if outputs is None else outputs)


def _model(options: argparse.Namespace) -> Any:
    import jax

    from shapjax import backbones

    text = getattr(options, "text", False)
    if options.backbone is None:
        options.backbone = TEXT_BACKBONE if text else backbones.names()[0]
    # A process of its own may choose the precision: networks stay in float32, games do not.
    jax.config.update("jax_enable_x64", True)
    return backbones.load(options.backbone, weights=options.weights)


def _say(options: argparse.Namespace, text: str) -> None:
    if options.quiet:
        return
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ShapjaxError(f"everything is written, but not shown ({error}).") from None


def _search(options: argparse.Namespace) -> None:
    from shapjax.core.files import printable, write_whole
    from shapjax.games.folder import search
    from shapjax.games.images import load_image
    from shapjax.report.gallery import GalleryPair, write_gallery
    from shapjax.report.page import write_page

    out = _out(options, ("gallery.html", "search.json"))
    query = load_image(options.query)
    model = _model(options)
    with Bar("embedding", options.quiet, "pictures") as bar:
        found = search(model, options.query, options.folder, top=options.top, progress=bar.update)
    for path, reason in found.unreadable.items():
        print(f"shapjax: skipped {printable(path)}: {printable(reason)}", file=sys.stderr)
    if not found.hits:
        raise ShapjaxError(f"{options.folder} holds no picture but the query; name another folder.")
    paths = [hit.path for hit in found.hits]
    explanations = _explain_hits(options, model, query, paths)
    pages = _fresh_pages(out)
    name = Path(options.query).name
    pairs, records = [], []
    for rank, (hit, explanation) in enumerate(zip(found.hits, explanations, strict=True), start=1):
        shown = str(hit.path.relative_to(options.folder))
        numbers = _numbers(explanation)
        record = {"file": shown, **numbers, "similarity": hit.similarity}
        explanation.save(pages / f"{rank:04}.npz")
        write_page(
            explanation,
            query,
            load_image(hit.path),
            pages / f"{rank:04}.html",
            query_name=name,
            retrieved_name=shown,
            summary={"rank": rank, "backbone": explanation.backbone, **numbers},
        )
        page = f"{pages.name}/{rank:04}.html"
        pairs.append(GalleryPair(explanation, query, hit.path, name, shown, page))
        records.append(record)
    summary = {
        "query": name,
        "folder": str(options.folder),
        "pictures": found.searched,
        "backbone": explanations[0].backbone,
        "method": explanations[0].method,
        "order": explanations[0].order,
        "seed": options.seed,
        **_circumstances(),
    }
    title = f"Nearest to {name}"
    write_gallery(pairs, out / "gallery.html", title=title, summary=summary)
    skipped = {str(path): reason for path, reason in found.unreadable.items()}
    whole = {**summary, "unreadable": skipped, "hits": records}
    write_whole(out / "search.json", json.dumps(whole, indent=2).encode() + b"\n")
    lines = [f"{record['similarity']:.4f}  {printable(record['file'])}" for record in records]
    _say(options, "\n".join([*lines, f"written: {printable(out / 'gallery.html')}"]))
    if _someone_looks() if options.open is None else options.open:
        webbrowser.open((out / "gallery.html").resolve().as_uri())


def _someone_looks() -> bool:
    """Whether the output is a terminal on a machine with a display."""
    # Without one Linux would hand a text browser the terminal.
    displays = ("DISPLAY", "WAYLAND_DISPLAY")
    shown = sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in displays)
    return sys.stdout.isatty() and shown


def _explain_hits(
    options: argparse.Namespace, model: Any, query: Image.Image, paths: list[Path]
) -> list[Explanation]:
    """Explanations of all matches."""
    from shapjax.explainers.batch import Failure, explain_stream
    from shapjax.explainers.explain import METHODS, default_method

    players = _players(options)
    method = options.method or default_method(players)
    stream = explain_stream(
        model,
        ((query, path) for path in paths),
        method=method,
        order=options.order or (2 if METHODS[method].players[1] else 1),
        players=players,
        background=_background(options),
        budget=options.budget,
        bilinear=options.bilinear,
        errors=options.errors,
        key=options.seed,
    )
    found = []
    with Bar(method, options.quiet, "pairs") as bar:
        bar.update(0, len(paths))
        for one in stream:
            if isinstance(one, Failure):
                raise ShapjaxError(str(one))
            found.append(one)
            bar.update(len(found), len(paths))
    return found


def _fresh_pages(out: Path) -> Path:
    """The folder of the pairs' own pages, without those of an earlier run."""
    pages = out / "pairs"
    try:
        pages.mkdir(exist_ok=True)
        for old in pages.glob("[0-9][0-9][0-9][0-9].*"):
            old.unlink()
    except OSError as error:
        raise ShapjaxError(
            f"cannot write into {pages} ({error.strerror}); choose another folder with --out."
        ) from None
    return pages


def _read_texts(options: argparse.Namespace) -> Pair:
    from shapjax.report.outputs import Pair

    if options.query is not None and options.retrieved is None:
        raise ShapjaxError(
            "got one text, expected QUERY and RETRIEVED; give a second one, or none for the "
            "built-in pair."
        )
    given = EXAMPLE if options.query is None else (options.query, options.retrieved)
    items = [_text_or_picture(item) for item in given]
    named = [i for i, item in zip(given, items, strict=True) if not isinstance(item, str)]
    if len(named) == 2:
        raise ShapjaxError(f"{' and '.join(named)} are both pictures; leave --text out.")
    if named:
        _require_pair_options(options, named[0])
    names = [Path(item).name if item in named else item for item in given]
    return Pair(items[0], items[1], names[0], names[1])


def _text_or_picture(given: str) -> Image.Image | str:
    """The picture that an argument names, if it names a picture that is there, else the text."""
    from PIL import Image

    from shapjax.games.images import load_image

    picture = Path(given).suffix.lower() in Image.registered_extensions()
    return load_image(given) if picture and os.path.isfile(given) else given


def _require_pair_options(options: argparse.Namespace, picture: str) -> None:
    """Refuse what does not go with a text and a picture."""
    if options.backbone in (None, TEXT_BACKBONE):
        raise ShapjaxError(
            f"{picture} is a picture, but {TEXT_BACKBONE} reads texts only; give a --backbone with "
            "towers for both, such as clip_vit_b_32."
        )
    asked = {
        f"--method {options.method}": options.method not in (None, "two-tower"),
        "--rather-than": options.rather_than is not None,
        "--bilinear": options.bilinear,
    }
    if wrong := [name for name, given in asked.items() if given]:
        raise ShapjaxError(
            f"{wrong[0]} is of two pictures, but a text and a picture are explained by two-tower; "
            "leave it out."
        )


def _sides(options: argparse.Namespace, model: Any, pair: Pair) -> list[Any]:
    """A text and a picture in parts, by the options that each of them takes."""
    from shapjax.games.parts import TEXT_BACKGROUNDS, TEXT_PLAYERS, parts

    background, sides = _background(options), []
    for name, item in (("query", pair.query), ("retrieved", pair.retrieved)):
        text = isinstance(item, str)
        players = getattr(options, f"{name}_players")
        if players is None and (options.players in TEXT_PLAYERS) == text:
            players = options.players
        # Dropped is what texts are anyway, and pictures on demand.
        own = background if (background in TEXT_BACKGROUNDS) == text else None
        if not text and background == "drop":
            players, own = players or "grid", "drop"
        tower = _reader(model) if text else model
        sides.append(parts(tower, item, players=players, background=own))
    return sides


def _reader(model: Any) -> Any:
    """The backbone itself if it reads texts, else its tower that does."""
    from shapjax.backbones.tokeniser import TextPreprocessing

    return model if isinstance(model.preprocessing, TextPreprocessing) else model.text


def _read_pair(options: argparse.Namespace) -> Pair:
    from shapjax.games.images import load_image
    from shapjax.report.outputs import Pair

    if options.query is None:
        from skimage import data

        left, right, _ = data.stereo_motorcycle()
        names = ("motorcycle, left", "motorcycle, right")
        return Pair(load_image(left), load_image(right), *names, _alternative(options))
    if options.retrieved is None:
        raise ShapjaxError(
            "got one picture, expected QUERY and RETRIEVED; name a second one, or none for the "
            "built-in pair."
        )
    return Pair(
        load_image(options.query),
        load_image(options.retrieved),
        Path(options.query).name,
        Path(options.retrieved).name,
        _alternative(options),
    )


def _alternative(options: argparse.Namespace) -> Image.Image | None:
    """The one picture that might have been found instead; none of several, or of a folder."""
    from shapjax.games.images import load_image

    others = options.rather_than or ()
    if len(others) != 1 or Path(others[0]).is_dir():
        return None
    return load_image(others[0])


def _run(
    options: argparse.Namespace, model: Any, pair: Pair
) -> tuple[list[Explanation], dict[str, str]]:
    """Explanations of every method asked for, and why methods are left out of ``all``.

    At first order a method explains the retrieved picture, then the query.
    """
    found: list[Explanation] = []
    left_out: dict[str, str] = {}
    for method in _methods(options):
        try:
            found += _run_one(options, model, pair, method)
        except ShapjaxError as error:
            if options.methods != "all":
                raise
            left_out[method] = str(error)
    if not found:
        raise ShapjaxError(f"no method explains this: {'; '.join(left_out.values())}")
    return found, left_out


def _methods(options: argparse.Namespace) -> list[str]:
    from shapjax.core.checks import one_of
    from shapjax.explainers.explain import METHODS, default_method

    if options.methods is None:
        usual = default_method(_players(options), _background(options))
        return [options.method or ("two-tower" if options.text else usual)]
    if options.methods == "all":
        # The usual one first: it is what the page opens with.
        names = sorted(METHODS, key=lambda name: name != default_method(_players(options)))
        orders = (1, 2) if options.order is None else (options.order,)
        return [n for n in names if any(METHODS[n].players[order - 1] for order in orders)]
    names = list(dict.fromkeys(name.strip() for name in options.methods.split(",")))
    return [one_of(name, tuple(METHODS), "--methods") for name in names]


def _run_one(options: argparse.Namespace, model: Any, pair: Pair, method: str) -> list[Explanation]:
    from shapjax.explainers.explain import METHODS, explain
    from shapjax.explainers.towers import BUDGET, explain_parts

    order = options.order or (2 if METHODS[method].players[1] else 1)
    sides = ("retrieved", "query") if order == 1 else (None,)
    if order == 1 and options.rather_than:
        sides = ("retrieved",)
    texts = [isinstance(item, str) for item in (pair.query, pair.retrieved)]
    mixed = _sides(options, model, pair) if texts[0] != texts[1] else None
    if all(texts):
        model = _reader(model)
    # Among several, methods without samples simply need no budget, and others no bilinear form.
    sampled = options.methods is None or METHODS[method].budgets is not None
    bilinear = order == 2 and METHODS[method].bilinear
    found = []
    for side in sides:
        with Bar(method if side is None else f"{method}, {side} side", options.quiet) as bar:
            shared = {"order": order, "side": side, "key": options.seed, "progress": bar.update}
            if mixed is not None:
                budget = BUDGET if options.budget is None else options.budget
                found.append(explain_parts(mixed[0], mixed[1], budget=budget, **shared))
                continue
            found.append(
                explain(
                    model,
                    pair.query,
                    pair.retrieved,
                    method=method,
                    players=_players(options),
                    background=_background(options),
                    rather_than=options.rather_than,
                    budget=options.budget if sampled else None,
                    bilinear=options.bilinear and (options.methods is None or bilinear),
                    errors=options.errors,
                    **shared,
                )
            )
    return found


def _players(options: argparse.Namespace) -> Any:
    """What plays: one kind for both pictures, or each picture's own."""
    if options.query_players is None and options.retrieved_players is None:
        return options.players
    both = options.players or "superpixels"
    return {
        "query": options.query_players or both,
        "retrieved": options.retrieved_players or both,
    }


def _background(options: argparse.Namespace) -> Any:
    """One background, several, or the method's own."""
    given = options.background
    return given[0] if given is not None and len(given) == 1 else given


def _summary(
    options: argparse.Namespace,
    pair: Pair,
    found: Sequence[Explanation],
    left_out: dict[str, str],
) -> dict[str, Any]:
    from shapjax.report.page import views

    shown = views(found)

    def about(view: list[Explanation]) -> dict[str, Any]:
        usual = [
            "drop" if isinstance(item, str) else _usual_background(view[0].method)
            for item in (pair.query, pair.retrieved)
        ]
        record: dict[str, Any] = {"order": view[0].order, **_numbers(view[0])}
        record["background"] = _one_or_all(options.background or list(dict.fromkeys(usual)))
        if len(view) == 2:
            record["query_side"] = _numbers(view[1])
        return record

    summary: dict[str, Any] = {
        "query": pair.query_name,
        "retrieved": pair.retrieved_name,
        "backbone": found[0].backbone,
    }
    if len(shown) == 1:
        summary |= {"method": found[0].method, **about(shown[0])}
    else:
        summary["methods"] = {view[0].method: about(view) for view in shown}
    if left_out:
        summary["left_out"] = left_out
    if options.bilinear:
        summary["bilinear"] = True
    if options.rather_than:
        summary["rather_than"] = _one_or_all(options.rather_than)
    return {**summary, "seed": options.seed, **_circumstances()}


def _usual_background(method: str) -> str:
    from shapjax.explainers.explain import METHODS

    return METHODS[method].background


def _one_or_all(names: list[str]) -> Any:
    return names[0] if len(names) == 1 else names


def _circumstances() -> dict[str, Any]:
    from importlib import metadata

    import jax
    import numpy as np

    from shapjax import __version__

    return {
        "versions": {
            "shapjax": __version__,
            "jax": jax.__version__,
            "jaxlib": metadata.version("jaxlib"),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "device": jax.devices()[0].device_kind,
    }


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


def _closing(out: Path, summary: dict[str, Any]) -> str:
    from shapjax.core.files import printable

    if "methods" in summary:
        heads = ("inefficiency", "evaluations", "seconds")
        lines = [f"{'method':<22}" + "".join(f"{head:>14}" for head in heads)]
        for name, numbers in summary["methods"].items():
            shown = f"{numbers['inefficiency']:.2g}", f"{numbers['evaluations']:,}"
            cells = (*shown, f"{numbers['seconds']:.1f}")
            lines.append(f"{name:<22}" + "".join(f"{cell:>14}" for cell in cells))
        lines += [f"left out {why}" for why in map(" ".join, summary.get("left_out", {}).items())]
    else:
        lines = [f"{key}: {summary[key]:.6g}" for key in ("similarity", "v_grand", "v_empty")]
        lines.append(f"inefficiency: {summary['inefficiency']:.2g}")
        lines.append(f"evaluations: {summary['evaluations']}, seconds: {summary['seconds']:.1f}")
    return "\n".join([*lines, f"written: {printable(str(out / 'report.html'))}"])


if __name__ == "__main__":
    sys.exit(main())
