"""Data sets in their publishers' layouts, and pairs that are mined from them."""

import csv
import functools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from data_set_folders import (
    coco_folder,
    cub_folder,
    plain_folder,
    save,
    scene,
    sop_folder,
    voc_folder,
    voc_part_folder,
)
from toy_network import toy

import shapjax as sj
from shapjax.core.stream import stream
from shapjax.evaluate.datasets import VOID, open_dataset
from shapjax.evaluate.mining import conditional_neighbours, mine_pairs
from shapjax.evaluate.pairs import Pair, digest_of_pairs, read_pairs, whole_pairs, write_pairs


@pytest.fixture(scope="module")
def model():
    return sj.backbones.load("shapjax_tiny")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SHAPJAX_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("layout", [voc_folder, voc_part_folder])
def test_voc(tmp_path, layout):
    found = open_dataset("voc", layout(tmp_path))
    assert [item.name for item in found.training] == ["t0", "t1", "t2", "t3", "t4", "t5"]
    assert [item.name for item in found.validation] == ["v0", "v1", "v2", "v3"]
    assert found.classes[1] == "aeroplane"
    assert found.classes[20] == "tvmonitor"
    labels = found.read_labels(found.training[1])
    np.testing.assert_array_equal(labels, scene(2, 1)[1])
    shown, void = found.class_mask(found.training[1], "bicycle", 24)
    np.testing.assert_array_equal(shown, (labels == 2)[1::2, 1::2])
    assert not void.any()


def test_voc_as_its_archive_unfolds(tmp_path):
    voc_folder(tmp_path / "VOCdevkit" / "VOC2012", void=True)
    found = open_dataset("voc", tmp_path)
    labels = found.read_labels(found.validation[0])
    assert (labels[:4] == VOID).all()
    shown, void = found.class_mask(found.validation[0], "aeroplane", 48)
    assert void[:4].all()
    assert not (shown & void).any()


def test_coco_with_stuff(tmp_path):
    found = open_dataset("coco", coco_folder(tmp_path, stuff=True))
    assert (len(found.training), len(found.validation)) == (3, 2)
    assert found.classes[2] == "bicycle"
    expected = scene(2, 1)[1].astype(int)
    expected[expected == 0] = VOID
    np.testing.assert_array_equal(found.read_labels(found.training[1]), expected)


def test_coco_with_instances(tmp_path):
    found = open_dataset("coco", coco_folder(tmp_path, stuff=False))
    assert found.classes == {1: "thing 1", 2: "thing 2", 3: "thing 3"}
    # The crowd runs down the first two columns, but not over the object.
    expected = scene(2, 1)[1].astype(int)
    expected[:, :2] = np.where(expected[:, :2] == 0, VOID, expected[:, :2])
    np.testing.assert_array_equal(found.read_labels(found.training[1]), expected)


def test_cub(tmp_path):
    found = open_dataset("cub", cub_folder(tmp_path))
    assert (len(found.training), len(found.validation)) == (4, 2)
    item = found.training[1]
    assert item.classes == (2,)
    assert found.classes == {1: "001.Bird_1", 2: "002.Bird_2"}
    # Most annotators saw the bird; the column that one of five saw is none.
    np.testing.assert_array_equal(found.read_labels(item), scene(2, 1)[1])


def test_sop_has_neighbours_among_the_other_pictures_of_a_product(tmp_path, model):
    found = open_dataset("sop", sop_folder(tmp_path))
    assert not found.has_masks
    mined = mine_pairs(found, model)
    assert {pair.id for pair in mined.pairs} == {
        "bicycle_final/1_0.JPG|bicycle_final/1_1.JPG|1",
        "bicycle_final/1_1.JPG|bicycle_final/1_0.JPG|1",
        "bicycle_final/2_2.JPG|bicycle_final/2_3.JPG|2",
        "bicycle_final/2_3.JPG|bicycle_final/2_2.JPG|2",
    }
    assert mined.alone == ["bicycle_final/3_4.JPG"]


def test_a_plain_folder(tmp_path, model):
    found = open_dataset("folder", plain_folder(tmp_path / "a"))
    assert found.training == found.validation
    assert len(found.items) == 4
    pairs = mine_pairs(found, model).pairs
    assert {(p.validation, p.training) for p in pairs} == {
        ("p0", "p2"),
        ("p2", "p0"),
        ("p1", "p3"),
        ("p3", "p1"),
    }
    assert {pair.category for pair in pairs} == {"red square", "blue square"}
    split = open_dataset("folder", plain_folder(tmp_path / "b", split=True))
    assert [item.name for item in split.validation] == ["p2", "p3"]


def test_roots_that_are_none(tmp_path):
    with pytest.raises(sj.ShapjaxError, match="is not a folder"):
        open_dataset("voc", tmp_path / "nowhere")
    with pytest.raises(sj.ShapjaxError, match="expected one of voc, coco"):
        open_dataset("imagenet", tmp_path)
    for name in ("voc", "coco", "cub", "sop", "folder"):
        with pytest.raises(sj.ShapjaxError, match=r"the root of this data set holds .*"):
            open_dataset(name, tmp_path)
    voc_folder(tmp_path)
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_text("\n")
    with pytest.raises(sj.ShapjaxError, match="6 training and 0 validation"):
        open_dataset("voc", tmp_path)
    (tmp_path / "images.csv").write_text("image,split\na,train\nb,test\n")
    with pytest.raises(sj.ShapjaxError, match="line 3 of"):
        open_dataset("voc", tmp_path)


def test_broken_files_are_reported_together_and_skipped_by_choice(tmp_path, model):
    root = voc_folder(tmp_path / "voc")
    (root / "JPEGImages" / "t0.jpg").unlink()
    (root / "JPEGImages" / "t1.jpg").write_bytes(b"not a picture")
    (root / "SegmentationClass" / "v0.png").write_bytes(b"not a mask")
    save(root / "SegmentationClass" / "v1.png", np.zeros((8, 8, 3), np.uint8))
    found = open_dataset("voc", root)
    with pytest.raises(sj.ImageError) as caught:
        mine_pairs(found, model)
    for name in ("4 file(s)", "t0.jpg: does not exist", "t1.jpg", "v0.png", "v1.png has colours"):
        assert name in str(caught.value)
    mined = mine_pairs(found, model, broken="skip")
    assert {path.name for path in mined.broken} == {"t0.jpg", "t1.jpg", "v0.png", "v1.png"}
    assert {pair.validation for pair in mined.pairs} == {"v2", "v3"}
    assert not {pair.training for pair in mined.pairs} & {"t0", "t1"}
    with pytest.raises(sj.ShapjaxError, match="expected one of fail, skip"):
        mine_pairs(found, model, broken="ignore")


def test_a_name_that_is_no_text_is_told_with_the_broken(tmp_path):
    """No row of a table could say it."""
    root = plain_folder(tmp_path / "plain")
    strange = {}
    for kind in ("images", "masks"):
        file = next(file for file in sorted((root / kind).iterdir()) if file.suffix == ".png")
        strange[kind] = file.with_name(os.fsdecode(b"\xff") + ".png")
        try:
            file.rename(strange[kind])
        except OSError:
            pytest.skip("this file system has names of characters only")
    found = open_dataset("folder", root)
    with pytest.raises(sj.ImageError, match=r"2 file\(s\).*name is not UTF-8; rename it"):
        mine_pairs(found, toy())
    mined = mine_pairs(found, toy(), broken="skip")
    assert mined.broken.keys() == set(strange.values())
    assert mined.alone == ["p2"]  # its neighbour was the renamed one


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("images/p1.webp", "have one name and so one mask"),
        ("classes.txt", r"1 name\(s\) of classes .* \(cat\)"),
        ("numbers", r"1 line\(s\) of .* begin with a number that another line has"),
        ("val.txt", r"1 name\(s\) of validation pictures .* \(p1\)"),
    ],
)
def test_what_is_known_by_its_name_has_one_of_its_own(tmp_path, change, message):
    root = plain_folder(tmp_path, split=True)
    if change == "classes.txt":
        (root / change).write_text("1 cat\n2 cat\n")
    elif change == "numbers":
        (root / "classes.txt").write_text("1 cat\n1 dog\n")
    elif change == "val.txt":
        (root / change).write_text("p1\np2\np1\n")
    else:
        (root / "images" / "p1.webp").write_bytes(b"")
    with pytest.raises(sj.ShapjaxError, match=message):
        open_dataset("folder", root)


def test_a_broken_mask_is_found_where_the_class_is_known_without_it(tmp_path, model):
    root = cub_folder(tmp_path)
    bad = root / "segmentations" / "001.Bird_1" / "Bird_0.png"
    found = open_dataset("cub", root)
    first = mine_pairs(found, model)
    assert "001.Bird_1/Bird_0.jpg" in {pair.training for pair in first.pairs}
    for content in (b"junk", None):
        bad.write_bytes(content) if content else bad.unlink()
        with pytest.raises(sj.ImageError, match=r"1 file\(s\).*Bird_0\.png"):
            mine_pairs(found, model)
        mined = mine_pairs(found, model, broken="skip")
        assert list(mined.broken) == [bad]
        assert "001.Bird_1/Bird_0.jpg" not in {pair.training for pair in mined.pairs}


def test_a_picture_without_a_map_is_missing_one(tmp_path):
    root = coco_folder(tmp_path, stuff=True)
    bad = root / "annotations" / "val2017" / "v00000000001.png"
    bad.unlink()
    found = open_dataset("coco", root)
    assert len(found.validation) == 2
    with pytest.raises(sj.ImageError, match=r"1 file\(s\).*v00000000001.png: does not exist"):
        mine_pairs(found, toy())
    assert len(mine_pairs(found, toy(), broken="skip").pairs) == 1


def test_neighbours_are_the_nearest_that_show_the_class(model, tmp_path):
    found = open_dataset("voc", voc_folder(tmp_path))
    mined = mine_pairs(found, model)
    assert len(mined.pairs) == 4

    def unit(item):
        picture = model.resize(sj.load_image(item.image), fit="stretch")
        vector = np.asarray(model.embed(model.normalise(picture)[None]), float)[0]
        return vector / np.linalg.norm(vector)

    for pair in mined.pairs:
        item = next(item for item in found.validation if item.name == pair.validation)
        number = found.number(pair.category)
        cosines = {
            other.name: unit(item) @ unit(other)
            for other in found.training
            if (found.read_labels(other) == number).any()
        }
        assert (found.read_labels(item) == number).mean() > 0.05
        assert pair.training == max(cosines, key=cosines.__getitem__)
        assert pair.similarity == pytest.approx(max(cosines.values()), abs=1e-5)


def test_neighbours_in_blocks_are_exact(monkeypatch):
    """Beside the whole matrix of cosines; of equal ones the first, never the query itself."""
    monkeypatch.setattr("shapjax.evaluate.mining.QUERIES", 4)
    monkeypatch.setattr("shapjax.evaluate.mining.ROWS", 8)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(21, 5)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[13] = rows[2]
    queries = np.concatenate([rows[:9], rows[13:14]])
    own = np.array([*range(9), -1])
    classes = np.arange(10) % 3
    members = {number: np.flatnonzero(rng.random(21) < 0.6) for number in range(3)}
    members[0] = np.union1d(members[0], [2, 13])
    best, cosines = conditional_neighbours(queries, rows, members, classes, own)
    whole = queries @ rows.T
    for place in range(10):
        allowed = np.full(21, -np.inf)
        allowed[members[classes[place]]] = whole[place, members[classes[place]]]
        if own[place] >= 0:
            allowed[own[place]] = -np.inf
        assert cosines[place] == pytest.approx(allowed.max(), abs=1e-6)
        assert allowed[best[place]] == pytest.approx(allowed.max(), abs=1e-6)
    assert best[9] == 2


def test_mining_is_deterministic_cached_and_goes_by_names(tmp_path, model, monkeypatch):
    found = open_dataset("voc", voc_folder(tmp_path / "voc"))
    first = mine_pairs(found, model, seed=3).pairs
    seen = []
    monkeypatch.setattr("shapjax.games.folder.load_image", lambda path: seen.append(path))
    assert mine_pairs(found, model, seed=3).pairs == first
    assert not seen  # nothing is read again
    assert mine_pairs(found, model, seed=3, count=2).pairs == first[:2]
    # Another order of the lists is the same data set.
    turned = open_dataset("voc", tmp_path / "voc")
    turned = type(turned)(
        **{**vars(turned), "validation": turned.validation[::-1], "training": turned.training}
    )
    assert mine_pairs(turned, model, seed=3).pairs == first


def test_shares_of_other_classes_or_annotations_are_not_taken(tmp_path):
    """A class that a list loses, and annotations that were mended, both after a first mining."""
    root = plain_folder(tmp_path / "plain")
    assert len(mine_pairs(open_dataset("folder", root), toy()).pairs) == 4
    (root / "classes.txt").write_text("1 red square\n")
    mined = mine_pairs(open_dataset("folder", root), toy())
    assert {pair.category for pair in mined.pairs} == {"red square"}
    assert sorted(mined.alone) == ["p1", "p3"]
    root = coco_folder(tmp_path / "coco", stuff=False)
    first = mine_pairs(open_dataset("coco", root), toy()).pairs
    assert {pair.category for pair in first} == {"thing 1", "thing 2"}

    def change(content):
        for one in content["annotations"]:
            one["category_id"] = 2
        return content

    rewrite(root / INSTANCES, change)
    mended = mine_pairs(open_dataset("coco", root), toy()).pairs
    assert {pair.category for pair in mended} == {"thing 2"}


ENTRIES = [
    "[]",
    "{",
    "[" * 100_000,
    '{"made_of": 3}',
    {},
    None,
    [1],
    [3, {}],
    [[1, 2], 3],
    [[1, 2], {"a": 0.5}],
    [[1, 2], {"1": "a lot"}],
    [[1, 2], {"1": None}],
    [[1, 2], {"99": 0.5}],
    [[1, 2], {"1": float("nan")}],
]
"""What a damaged cache may hold: as text, or in the place of one mask's entry."""


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: str(entry)[:20])
def test_a_damaged_cache_is_made_anew(tmp_path, entry):
    found = open_dataset("folder", plain_folder(tmp_path / "plain"))
    pairs = mine_pairs(found, toy()).pairs
    (store,) = (Path(os.environ["SHAPJAX_CACHE"]) / "masks").iterdir()
    whole = store.read_bytes()
    content = json.loads(whole)
    mask = str(found.items[0].mask)
    if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], list):
        entry = [content["masks"][mask][0], entry[1]]  # of the mask that is there
    content["masks"][mask] = entry
    store.write_text(entry if isinstance(entry, str) else json.dumps(content))
    assert mine_pairs(found, toy()).pairs == pairs
    assert store.read_bytes() == whole


def test_small_classes_are_not_drawn(tmp_path, model):
    root = voc_folder(tmp_path / "voc")
    picture, labels = scene(1, 7, share=0.04)
    save(root / "JPEGImages" / "v0.jpg", picture)
    save(root / "SegmentationClass" / "v0.png", labels)
    # Void counts among all pixels, but belongs to no class.
    picture, labels = scene(2, 7, share=0.25)
    labels[labels == 2] = 255
    save(root / "SegmentationClass" / "v1.png", labels)
    mined = mine_pairs(open_dataset("voc", root), model)
    assert sorted(mined.alone) == ["v0", "v1"]
    assert {pair.validation for pair in mined.pairs} == {"v2", "v3"}


def test_pairs_are_written_and_read(tmp_path):
    found = open_dataset("voc", voc_folder(tmp_path / "voc"))
    pairs = [Pair("v1", "t3", "bicycle", 0.5), Pair("v0", "t0", "aeroplane", 0.25)]
    write_pairs(tmp_path / "pairs.csv", pairs)
    assert read_pairs(tmp_path / "pairs.csv", found) == pairs
    assert digest_of_pairs(pairs) == digest_of_pairs(pairs[::-1])
    assert digest_of_pairs(pairs) != digest_of_pairs(pairs[:1])
    told = []
    assert whole_pairs(pairs, found, progress=lambda *two: told.append(two)) == (pairs, {})
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    (tmp_path / "voc" / "JPEGImages" / "t3.jpg").unlink()
    with pytest.raises(sj.ImageError, match=r"1 file.*t3.jpg: does not exist"):
        whole_pairs(pairs, found)
    gone = tmp_path / "voc" / "JPEGImages" / "t3.jpg"
    assert whole_pairs(pairs, found, broken="skip") == (pairs[1:], {gone: "does not exist"})
    # What is there is opened, all of it, and told at once: both files of one item, too.
    for name in ("JPEGImages/v0.jpg", "SegmentationClass/v0.png", "SegmentationClass/t0.png"):
        (tmp_path / "voc" / name).write_bytes(b"junk")
    with pytest.raises(sj.ImageError, match=r"4 file.*t3.jpg: does not exist") as caught:
        whole_pairs(pairs, found)
    assert all(name in str(caught.value) for name in ("v0.jpg", "v0.png", "t0.png"))
    left, reasons = whole_pairs(pairs, found, broken="skip")
    assert left == []
    assert {path.name for path in reasons} == {"t3.jpg", "v0.jpg", "v0.png", "t0.png"}
    assert read_pairs(tmp_path / "pairs.csv", found) == pairs  # looks at none of these files
    write_pairs(tmp_path / "other.csv", [Pair("v9", "t3", "unicorn", 0.5)])
    with pytest.raises(sj.ShapjaxError, match=r"2 names \(unicorn, v9\)"):
        read_pairs(tmp_path / "other.csv", found)
    for content in ("a,b\n1,2\n", '"' + "a,b\n" * 40_000):
        (tmp_path / "other.csv").write_text(content)
        with pytest.raises(sj.ShapjaxError, match="cannot be read as a table of pairs"):
            read_pairs(tmp_path / "other.csv", found)


def test_a_stream_is_in_order_bounded_and_hands_on_errors():
    running, most = set(), []

    def read(number):
        running.add(number)
        most.append(number)
        if number == 5:
            raise sj.ShapjaxError("number five")
        return 2 * number

    seen = []
    for number, value in stream(read, list(range(40)), threads=2, ahead=4):
        seen.append(number)
        if number == 5:
            assert str(value) == "number five"
        else:
            assert value == 2 * number
        assert max(most) <= number + 2 * (4 + 2) + 2  # not far ahead of its reader
    assert seen == list(range(40))
    assert list(stream(read, [])) == []


def test_a_crowd_that_does_not_fill_its_picture(tmp_path):
    root = coco_folder(tmp_path, stuff=False)

    def change(content):
        content["annotations"][1]["segmentation"]["counts"] = [0, 5]
        return content

    rewrite(root / INSTANCES, change)
    found = open_dataset("coco", root)
    with pytest.raises(sj.ImageError, match="run lengths"):
        found.read_labels(found.validation[0])


def rewrite(path, change):
    """Put what ``change`` makes of the content of a JSON file back into it."""
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content)))


INSTANCES = "annotations/instances_val2017.json"

DAMAGED = {
    "cub: a picture without a class": ("cub", "image_class_labels.txt", "1 1\n"),
    "cub: no number": ("cub", "classes.txt", "one 001.Bird_1\n"),
    "cub: no such split": ("cub", "train_test_split.txt", "1 7\n"),
    "sop: no number": ("sop", "Ebay_test.txt", "id class super path\n1 one 1 a.JPG\n"),
    "folder: no number": ("folder", "classes.txt", "one red square\n"),
    "voc: an open quote": ("voc", "images.csv", 'image,split\n"' + "a,train\n" * 20_000),
    "coco: categories are a number": ("coco", INSTANCES, '{"categories": 3}'),
    "coco: a list": ("coco", INSTANCES, "[1, 2]"),
    "coco: a picture without a file": (
        "coco",
        INSTANCES,
        '{"categories": [], "images": [{"id": 1}], "annotations": []}',
    ),
    "coco: brackets without end": ("coco", INSTANCES, "[" * 100_000),
    "stuff: categories are a number": ("stuff", INSTANCES, '{"categories": 3}'),
    "stuff: no categories": ("stuff", INSTANCES, "{}"),
}
"""Of each data set a list that somebody damaged: the set, the file and its content."""

LAYOUTS = {
    "voc": voc_part_folder,
    "coco": functools.partial(coco_folder, stuff=False),
    "stuff": functools.partial(coco_folder, stuff=True),
    "cub": cub_folder,
    "sop": sop_folder,
    "folder": plain_folder,
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_lists_end_in_one_sentence(tmp_path, damage):
    layout, name, content = DAMAGED[damage]
    root = LAYOUTS[layout](tmp_path)
    path = (root / "CUB_200_2011" if layout == "cub" else root) / name
    path.parent.mkdir(exist_ok=True)
    (root / "labels.txt").unlink(missing_ok=True)
    path.write_text(content)
    with pytest.raises(sj.ShapjaxError, match=r"damaged.* anew\.$") as caught:
        open_dataset("coco" if layout == "stuff" else layout, root)
    assert type(caught.value) is sj.ShapjaxError
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


OBJECTS = {
    "a word in a polygon": ("annotations", "segmentation", [["a", 1, 2, 3, 4, 5]]),
    "half a point": ("annotations", "segmentation", [[1, 2, 3]]),
    "a number for polygons": ("annotations", "segmentation", 3),
    "a class without a number": ("annotations", "category_id", "bird"),
    "an endless class": ("annotations", "category_id", float("inf")),
    "run lengths without a size": ("annotations", "segmentation", {"counts": [48 * 48]}),
    "run lengths of words": ("annotations", "segmentation", {"counts": ["a"], "size": [48, 48]}),
    "run lengths below nothing": (
        "annotations",
        "segmentation",
        {"counts": [-48, 49 * 48], "size": [48, 48]},
    ),
    "run lengths of another picture": (
        "annotations",
        "segmentation",
        {"counts": [10**12], "size": [10**6, 10**6]},
    ),
    "a side that is no number": ("images", "height", "48"),
    "a huge picture": ("images", "height", 10**7),
    "a long picture": ("images", "width", 10**5),
    "a picture of nothing": ("images", "width", -48),
}
"""What an object or a picture of COCO's annotations may be damaged to."""


@pytest.mark.parametrize("damage", OBJECTS)
def test_damaged_objects_are_an_image_error(tmp_path, damage):
    part, key, value = OBJECTS[damage]
    root = coco_folder(tmp_path, stuff=False)

    def change(content):
        content[part][0][key] = value
        return content

    rewrite(root / INSTANCES, change)
    found = open_dataset("coco", root)
    with pytest.raises(sj.ImageError) as caught:
        found.read_labels(found.validation[0])
    assert str(found.validation[0].image) in str(caught.value)
    assert found.read_labels(found.validation[1]).shape == (48, 48)


def test_a_damaged_object_does_not_end_mining(tmp_path):
    root = coco_folder(tmp_path / "coco", stuff=False)

    def change(content):
        content["annotations"][0]["segmentation"] = [["a", 1, 2, 3, 4, 5]]
        return content

    rewrite(root / INSTANCES, change)
    found = open_dataset("coco", root)
    with pytest.raises(sj.ImageError, match=r"1 file\(s\).*objects that cannot be drawn"):
        mine_pairs(found, toy())
    mined = mine_pairs(found, toy(), broken="skip")
    assert list(mined.broken) == [found.validation[0].image]
    assert [pair.validation for pair in mined.pairs] == [found.validation[1].name]


def test_the_part_of_voc_at_hand():
    """Shares of classes over 5% as the list of the part states them."""
    folder = Path(os.environ.get("SHAPJAX_DATA", Path(__file__).parents[2] / "shared" / "data"))
    root = folder / "voc_mini"
    if not root.is_dir():
        pytest.skip("needs the part of Pascal VOC that $SHAPJAX_DATA has")
    found = open_dataset("voc", root)
    assert (len(found.training), len(found.validation)) == (160, 150)
    items = {item.name: item for item in found.items}
    with (root / "images.csv").open() as lines:
        for row in list(csv.DictReader(lines))[::20]:
            labels = found.read_labels(items[row["image"]])
            shares = {
                name: round(float((labels == number).mean()), 4)
                for number, name in found.classes.items()
                if (labels == number).mean() > 0.05
            }
            stated = dict(part.split(":") for part in row["classes_over_5pct"].split())
            assert {name: float(share) for name, share in stated.items()} == shares
