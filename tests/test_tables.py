"""Means, standard errors and the paper's numbers beside them."""

import csv
import io
import json
import re
import shlex
import sys
from pathlib import Path
from string import Template

import pytest

from shapjax import cli
from shapjax.core.errors import ShapjaxError
from shapjax.evaluate.command import _settings
from shapjax.evaluate.differences import differences
from shapjax.evaluate.plan import read_plan
from shapjax.evaluate.published import METHODS_OF_PAPER, Published, published
from shapjax.evaluate.rows import key_of
from shapjax.evaluate.store import read
from shapjax.evaluate.tables import (
    METRICS,
    comma_separated,
    latex,
    markdown,
    pair_counts,
    summarise,
    write_tables,
)

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import differences as differences_bench  # noqa: E402


def row(pair, method, order=1, backbone="resnet50", **measured):
    known = {"pair": str(pair), "backbone": backbone, "method": method, "order": order}
    return {**known, "error": None, **measured}


ROWS = [
    row(0, "sam", faithfulness=0.1, seconds=9.0, warm=False),
    row(1, "sam", faithfulness=0.2, seconds=1.0, warm=True),
    row(2, "sam", faithfulness=None, seconds=2.0, warm=True),
    row(3, "sam", error="NaN"),
    row(0, "gram-sam", faithfulness=0.5),
    row(0, "sam", 2, mean_iou=0.25, backbone="net"),
]


def test_means_and_standard_errors():
    cells = {(c.metric, c.network, c.method): c for c in summarise(ROWS, "voc") if c.count}
    found = cells["faithfulness", "resnet50", "sam"]
    assert found.mean == pytest.approx(0.15)
    # Two numbers a, b have the standard error |a - b| / 2.
    assert found.standard_error == pytest.approx(0.05)
    assert found.count == 2
    assert found.published == Published("0.07")
    assert cells["seconds", "resnet50", "sam"].published == Published("0.09", "0.001")
    alone = cells["faithfulness", "resnet50", "gram-sam"]
    assert (alone.mean, alone.standard_error, alone.published) == (0.5, None, None)
    assert cells["mean_iou", "net", "sam"].published is None
    assert len(cells) == 4


def test_of_seconds_the_median_of_warm_rows_is_shown():
    """One pair that took minutes does not show; nor what was compiled on the way."""
    seconds = [0.04, 0.05, 200.0]
    rows = [row(0, "sam", seconds=900.0, warm=False)]
    rows += [row(at, "sam", seconds=value, warm=True) for at, value in enumerate(seconds, 1)]
    (cell,) = (c for c in summarise(rows, "voc") if c.count)
    assert (cell.mean, cell.median, cell.count) == (pytest.approx(200.09 / 3), 0.05, 3)
    # Of a, a and b the standard error is |b - a| / 3.
    assert cell.standard_error == pytest.approx(199.955 / 3, rel=1e-6)
    cells = summarise(rows, "voc")
    for text, line in (
        (markdown(cells), "| resnet50 |  |  |  |  | 0.050 |  |"),
        (markdown(cells), "| *RN50, published mean* | *19.5 ± 0.0* |"),
        (latex(cells), "resnet50 &  &  &  &  & 0.050 & "),
    ):
        assert "Median seconds, first order" in text
        assert line in text
    ours = next(csv.DictReader(io.StringIO(comma_separated(cells))))
    assert (ours["median"], ours["published"]) == ("0.05", "0.09")
    assert float(ours["mean"]) == cell.mean
    assert float(ours["standard_error"]) == cell.standard_error


def test_differences_are_within_pairs():
    rows = [row(at, "sam", faithfulness=value) for at, value in enumerate([0.1, 0.5, 0.3])]
    rows += [row(at, "gradcam", faithfulness=value) for at, value in ((0, 0.2), (1, 0.4), (7, 9.0))]
    rows += [row(0, "gradcam", 2, faithfulness=5.0), row(2, "gradcam", error="NaN")]
    rows += [row(0, "sam", faithfulness=0.0, backbone="net"), row(0, "vesm", faithfulness=None)]
    rows += [row(0, "lime", faithfulness=0.25, backbone="net"), row(9, "ig", faithfulness=1.0)]
    # Of 0.1 and -0.1 the mean is 0 and the standard error 0.1.
    assert differences(rows, "sam") == [
        ("resnet50", "gradcam", pytest.approx(0), pytest.approx(0.1), 2),
        ("net", "lime", 0.25, None, 1),
    ]
    with pytest.raises(
        ShapjaxError, match=r"no row of shap has faithfulness of order 1; .* gradcam"
    ):
        differences(rows, "shap")
    with pytest.raises(ShapjaxError, match="no metric is named 'pointing' at order 2"):
        differences(rows, "sam", "pointing", 2)
    # Of seconds, what was compiled on the way does not count.
    rows = [row(at, "sam", seconds=1.0, warm=at > 0) for at in range(3)]
    rows += [row(at, "vesm", seconds=9.0 if at == 0 else 2.0, warm=at > 0) for at in range(3)]
    assert differences(rows, "sam", "seconds") == [("resnet50", "vesm", 1.0, 0.0, 2)]


def test_pairs_and_failures_are_counted_where_they_differ_from_all():
    rows = [row(at, "sam", faithfulness=0.5) for at in range(4)]
    rows += [row(at, "vesm", error="NaN" if at else None, faithfulness=0.1) for at in range(4)]
    rows += [row(at, name, 2, mean_iou=0.5) for at in range(2) for name in ("sam", "lime")]
    rows += [row(0, "ig", error="NaN"), row(0, "sam", backbone="net", faithfulness=0.5)]
    text = markdown(summarise(rows, "folder"), pair_counts(rows))
    assert text.endswith(
        "|\n\nresnet50: 4 pairs; vesm of order 1: 3 failed; ig of order 1: 1 pairs, 1 failed; "
        "sam, lime of order 2: 2 pairs.\n\nnet: 1 pairs.\n"
    )


def test_published_numbers_keep_their_digits():
    text = markdown(summarise([row(0, "sam", faithfulness_v1=0.5, faithfulness=0.5)], "voc"))
    assert "| *RN50, published* | *0.1 ± 0.003* | *0.15 ± 0.004* | *0.11 ± 0.004* |" in text
    text = markdown(summarise([row(0, "sam", faithfulness=0.5)], "sop"))
    assert "| *MoCoV2, published* | *0.24* | *0.30* | *0.27* | *0.18* | *0.14* | *0.2* |" in text


def test_the_papers_numbers_follow_ours_metric_by_metric():
    cells = summarise(ROWS, "voc")
    theirs = {c[:4]: c.published for c in cells if not c.count}
    assert all(c.mean is None and c.standard_error is None for c in cells if not c.count)
    # Those of a metric that nothing of ours was measured by are left out.
    ours = {c[:2] for c in cells if c.count}
    assert theirs == {key: n for key, n in published("voc").items() if key[:2] in ours}
    assert ("inefficiency", 1) not in ours
    # Each metric once, its own cells first.
    runs = [(c[:2], c.count > 0) for c in cells]
    assert list(dict.fromkeys(runs)) == sorted(
        set(runs), key=lambda run: (list(METRICS).index(run[0]), not run[1])
    )


def test_every_published_number_is_printed():
    """No metric of the papers lacks a table, nor a number its line there."""
    for dataset in ("voc", "sop", "cub", "coco"):
        known = published(dataset)
        assert {key[:2] for key in known} <= set(METRICS)
        rows = [row(0, "sam", order, "net", **{metric: 0.5}) for metric, order in METRICS]
        text = markdown(summarise(rows, dataset))
        lines = [line for line in text.splitlines() if ", published" in line]
        shown = sum(cell.strip().startswith("*") for line in lines for cell in line.split("|")[2:])
        assert shown == len(known)


def test_published_numbers_as_they_are_printed():
    voc = published("voc")
    assert voc["faithfulness", 1, "DN121", "partition-shap"] == Published("0.26")
    assert voc["inefficiency", 1, "RN50", "gradcam"] == Published("14.9")
    assert voc["mean_iou", 2, "VGG11", "ig-sam"] == Published("0.73")
    assert ("inefficiency", 1, "DN121", "sbsm") not in voc
    assert voc["distance_v1", 2, "VGG11", "kernel-shap"] == Published("0.31", "0.006")
    assert voc["seconds", 2, "RN50", "kernel-shap"] == Published("129.4", "0.87")
    assert voc["mean_iou", 2, "DN121 (v1)", "lime"] == Published("0.62")
    assert ("seconds", 2, "DN121", "ig") not in voc
    assert published("sop")["faithfulness", 1, "MoCoV2", "kernel-shap"] == Published("0.18")
    assert published("cub")["inefficiency", 1, "RN50-ML", "gradcam"] == Published("5.23")
    assert published("coco")["mean_iou", 2, "RN50", "kernel-sam"] == Published("0.48")
    assert published("folder") == {}
    # 9 + 6 + 7 + 5 + 6 columns of 4 networks, and 3 networks of v1 with 6 * 2 + 4 * 3 numbers.
    assert len(voc) == 4 * (9 + 6 + 7 + 5 + 6) + 3 * (6 * 2 + 4 * 3)


def test_published_numbers_are_in_the_text_of_the_paper():
    """Every line of tables 1 to 4, read again from the paper where it is at hand."""
    path = Path(__file__).parents[2] / "shared" / "papers" / "axiomatic_explanations_iclr2022.txt"
    if not path.exists():
        pytest.skip("needs the text of the paper")
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = re.findall(r"^(?:\S+ )?(DN121|MoCoV2|RN50-ML|RN50|VGG11) ([-\d. ]+)", text, re.M)
    printed = {}
    for network, numbers in lines:
        words = numbers.split()
        if len(words) == 9:
            printed.setdefault(network, []).append(
                [None if word == "-" else word for word in words]
            )
    for dataset, count in (("voc", 5), ("sop", 2), ("cub", 2), ("coco", 5)):
        known = published(dataset)
        names = ("faithfulness", "inefficiency", "mean_iou")
        kinds = {key[:3] for key in known if key[0] in names and "(v1)" not in key[2]}
        per_network = {}
        for metric, order, network in kinds:
            values = [known.get((metric, order, network, m)) for m in METHODS_OF_PAPER]
            values = [None if v is None else v.value for v in values]
            per_network[network] = per_network.get(network, 0) + 1
            assert values in printed[network], (dataset, metric, order, network)
        assert set(per_network.values()) == {count}


def test_numbers_of_the_first_version_are_in_its_text():
    """v1's table 1, read again where it is at hand."""
    name = "model_agnostic_explainability_2021_v1.md"
    path = Path(__file__).parents[2] / "shared" / "papers" / name
    if not path.exists():
        pytest.skip("needs the text of the paper")
    networks = {"RESNET50": "RN50", "VGG11": "VGG11", "DENSENET121": "DN121"}
    names = {"INTEGRATED GRADIENTS": "ig"}
    columns = (
        ("seconds", 1),
        ("faithfulness_v1", 1),
        ("seconds", 2),
        ("distance_v1", 2),
        ("mean_iou", 2),
    )
    printed, network = {}, ""
    for line in path.read_text(encoding="utf-8").splitlines():
        cells = [re.sub(r"<.*?>|\$", "", cell).strip() for cell in line.split("|")[1:-1]]
        if len(cells) != 7 or not re.match(r"[-\d]", cells[3]) or cells[3].startswith("--"):
            continue
        network = networks.get(cells[0], network)
        method = names.get(cells[1], cells[1].lower().replace(" ", "-"))
        for (metric, order), cell in zip(columns, cells[2:], strict=True):
            if cell != "-":
                parts = cell.split(r" \pm ")
                # The mIoU of these networks is printed in both versions.
                name = f"{network} (v1)" if metric == "mean_iou" else network
                printed[metric, order, name, method] = Published(*parts)
    known = published("voc")
    of_v1 = {
        key: number for key, number in known.items() if key[:2] in columns[:-1] or "(v1)" in key[2]
    }
    assert of_v1 == printed
    assert len(printed) == 3 * (6 * 2 + 4 * 3)


def test_markdown():
    text = markdown(summarise(ROWS, "voc"))
    first = text.split("\n\n")
    assert first[0] == "**Faithfulness, first order (higher is better)**"
    lines = first[1].splitlines()
    assert lines[0] == f"| network | {' | '.join(METHODS_OF_PAPER)} | gram-sam |"
    assert "| resnet50 |  |  |  |  |  |  | 0.15 ± 0.05 |  |  | 0.50 |" in lines
    assert any(line.startswith("| *RN50, published* | *0.11* | *0.16* |") for line in lines)
    assert all(line.count("|") == lines[0].count("|") for line in lines)
    miou = first[first.index("**mIoU, second order (higher is better)**") + 1].splitlines()
    assert "| *DN121 (v1), published* | *0.54* | *0.62* | *0.65* | *0.63* |  |  |" in miou
    assert miou[2].startswith("| net |")


def test_comma_separated_and_latex(tmp_path):
    cells = summarise(ROWS, "voc")
    table = list(csv.DictReader(io.StringIO(comma_separated(cells))))
    assert len(table) == len(cells)
    by_place = {(r["metric"], r["order"], r["network"], r["method"]): r for r in table}
    found = by_place["faithfulness", "1", "resnet50", "sam"]
    assert (found["published"], found["count"]) == ("0.07", "2")
    theirs = by_place["seconds", "1", "DN121", "sam"]
    names = ("mean", "median", "count", "published", "published_standard_error")
    assert [theirs[name] for name in names] == ["", "", "0", "0.17", "0.004"]
    text = latex(cells)
    assert r"0.15 $\pm$ 0.05" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 3
    assert "_" not in text.replace(r"\_", "")
    paths = write_tables(tmp_path, ROWS, "voc")
    assert paths["md"].read_text(encoding="utf-8") == markdown(cells, pair_counts(ROWS))


def test_a_set_without_published_numbers():
    text = markdown(summarise(ROWS, "folder"))
    assert "published" not in text
    assert "| resnet50 | 0.15 ± 0.05 | 0.50 |" in text


@pytest.fixture(scope="module")
def pages():
    """The README and what docs has beside it, by name."""
    paths = [ROOT / "README.md", ROOT / "docs" / "evaluation.md", ROOT / "docs" / "scale.md"]
    if not all(path.exists() for path in paths):
        pytest.skip("needs the README and docs of the repository")
    return {path.name: path.read_text(encoding="utf-8") for path in paths}


def printed_tables(text):
    """Lines of each table by its title."""
    found = re.findall(r"^\*\*(.+)\*\*\n\n((?:\|.*\n)+)", text, re.M)
    assert len(dict(found)) == len(found), "a title stands twice"
    return {title: lines.splitlines() for title, lines in found}


def evaluation_block(readme):
    (block,) = re.findall(r"<!-- evaluation -->\n(.*?)<!-- evaluation ends -->", readme, re.S)
    return block


def printed_commands(text):
    """Options of every ``shapjax evaluate`` in the blocks of shell, variables put in."""
    found = []
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S):
        known = {}
        for line in block.replace("\\\n", " ").splitlines():
            if assigned := re.fullmatch(r'(\w+)="(.*)"', line):
                known[assigned[1]] = assigned[2]
            elif line.startswith("shapjax evaluate "):
                words = shlex.split(Template(line).substitute(known))
                found.append(cli._parser().parse_args(words[1:]))
    return found


def test_tables_of_the_readme_are_those_of_the_whole_page(pages):
    few = printed_tables(evaluation_block(pages["README.md"]))
    whole = printed_tables(pages["evaluation.md"])
    assert few
    for title, lines in few.items():
        assert lines == whole[title], title
    assert list(whole)[: len(METRICS)] == list(METRICS.values())


def kept(name):
    return ROOT / "docs" / "evaluation" / name


def test_tables_are_those_of_the_kept_runs(pages):
    """The rows of every command that the README prints are kept, and make its tables."""
    commands = printed_commands(pages["README.md"])
    *_, last = commands
    folders = [kept(name) for name in (last.out, *last.others)]
    assert {folder.name for folder in folders} == {options.out for options in commands}
    plans = [(folder, read_plan(folder)) for folder in folders]
    rows = differences_bench.rows_of(folders)
    text = markdown(summarise(rows, "voc"), pair_counts(rows))
    assert text in pages["evaluation.md"]
    # And are of what the command asks for.
    asked = {options.out: options for options in commands}
    with (kept("maps") / "pairs.csv").open() as lines:
        pairs = {"|".join(list(line.values())[:3]) for line in csv.DictReader(lines)}
    assert len(pairs) == 150
    for folder, plan in plans:
        options = asked[folder.name]
        settings = _settings(options)
        tasks = {(*task, settings.budget_of(*task)) for task in settings.tasks}
        assert set(map(tuple, plan["methods"])) == tasks
        assert list(plan["backbones"]) == options.backbones
        assert len(plan["weights"]) == len(options.weights)
        assert {key_of(row) for row in read(folder)} == {
            (pair, *options.backbones, method, order)
            for pair in pairs
            for method, order, _ in plan["methods"]
        }


def test_differences_of_the_page_are_printed_by_its_command(pages, monkeypatch, capsys):
    def printed(*words):
        monkeypatch.setattr(sys, "argv", ["differences.py", *map(str, words)])
        differences_bench.main()
        return capsys.readouterr().out

    assert printed().strip() in pages["evaluation.md"]
    records = json.loads(printed("--json"))
    (vesm,) = (
        one
        for one in records
        if (one["metric"], one["order"], one["against"]) == ("faithfulness", 1, "sam")
        and (one["network"], one["method"]) == ("mobilenet_v2", "vesm")
    )
    # The same mean by way of the tables: pairs are the same, so means subtract.
    rows = read(kept("maps"))
    means = {cell.method: cell.mean for cell in summarise(rows, "voc") if cell.count
             and (cell.metric, cell.order) == ("faithfulness", 1)}  # fmt: skip
    assert vesm["mean"] == pytest.approx(means["vesm"] - means["sam"])
    for wrong, said in (
        (["--against", "smam"], "against is 'smam'"),
        ([ROOT], "cannot be read as the plan of a run"),
    ):
        with pytest.raises(SystemExit, match="2"):
            printed(*wrong)
        assert said in capsys.readouterr().err


def test_commands_of_the_readme_are_understood_and_make_its_networks(pages):
    commands = printed_commands(pages["README.md"])
    assert commands
    for options in [*commands, *printed_commands(pages["scale.md"])]:
        assert _settings(options).tasks
    made = {options.out for options in commands}
    assert all(made.issuperset(options.others) for options in commands)
    networks = {name for options in commands for name in options.backbones}
    for title, (_, _, *lines) in printed_tables(evaluation_block(pages["README.md"])).items():
        shown = {line.split("|")[1].strip() for line in lines}
        assert {name for name in shown if not name.startswith("*")} <= networks, title
