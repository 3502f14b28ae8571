"""Tiny data sets in their publishers' layouts, drawn for tests."""

import json

import numpy as np
from PIL import Image

COLOURS = {1: (220, 40, 30), 2: (30, 60, 220), 3: (20, 200, 60)}
"""Colour of the object of each class."""


def scene(number, seed, size=48, share=0.25):
    """A picture of noise with a square of class ``number``, and its label map."""
    rng = np.random.default_rng([seed, number])
    picture = rng.integers(90, 160, (size, size, 3), dtype=np.uint8)
    labels = np.zeros((size, size), np.uint8)
    side = round(size * share**0.5)
    top, left = rng.integers(0, size - side, 2)
    picture[top : top + side, left : left + side] = COLOURS[number]
    labels[top : top + side, left : left + side] = number
    return picture, labels


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def voc_folder(root, training=(1, 2, 1, 2, 3, 1), validation=(1, 2, 1, 2), void=False):
    """VOC's layout; a picture is named by its split and number: t0, t1, v0, v1 and so on."""
    names = {"train": [], "val": []}
    for split, classes in (("train", training), ("val", validation)):
        for place, number in enumerate(classes):
            name = f"{split[0]}{place}"
            picture, labels = scene(number, place + 100 * (split == "val"))
            if void:
                labels[:4] = 255
            save(root / "JPEGImages" / f"{name}.jpg", picture)
            save(root / "SegmentationClass" / f"{name}.png", labels)
            names[split].append(name)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, listed in names.items():
        (lists / f"{split}.txt").write_text("\n".join(listed) + "\n")
    return root


def voc_part_folder(root):
    """The layout of a part of VOC: the two folders and ``images.csv``."""
    voc_folder(root)
    lists = root / "ImageSets" / "Segmentation"
    lines = ["image,split,width"]
    for split in ("train", "val"):
        lines += [f"{name},{split},48" for name in (lists / f"{split}.txt").read_text().split()]
        (lists / f"{split}.txt").unlink()
    (root / "images.csv").write_text("\n".join(lines) + "\n")
    return root


def coco_folder(root, stuff):
    """COCO 2017, with COCO-Stuff's pixel maps or with instances."""
    for part, classes in (("train2017", (1, 2, 1)), ("val2017", (1, 2))):
        images, annotations = [], []
        for place, number in enumerate(classes):
            name = f"{part[0]}{place:011}"
            picture, labels = scene(number, place)
            save(root / "images" / part / f"{name}.jpg", picture)
            if stuff:
                # Entry k is the class of number k + 1; what is not labelled is 255.
                entries = np.where(labels == 0, 255, labels - 1).astype(np.uint8)
                save(root / "annotations" / part / f"{name}.png", entries)
                continue
            rows, columns = np.nonzero(labels)
            top, bottom, left, right = rows.min(), rows.max(), columns.min(), columns.max()
            box = [left, top, right, top, right, bottom, left, bottom]
            images.append({"id": place, "file_name": f"{name}.jpg", "height": 48, "width": 48})
            annotations.append(
                {"image_id": place, "category_id": number, "segmentation": [list(map(int, box))]}
            )
            crowd = {"counts": [0, 48 * 2, 48 * 46], "size": [48, 48]}
            annotations.append({"image_id": place, "category_id": 3, "segmentation": crowd})
        if not stuff:
            content = {
                "images": images,
                "annotations": annotations,
                "categories": [{"id": n, "name": f"thing {n}"} for n in (1, 2, 3)],
            }
            (root / "annotations").mkdir(exist_ok=True)
            (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))
    if stuff:
        (root / "labels.txt").write_text("0: unlabeled\n1: person\n2: bicycle\n3: car\n")
    return root


def cub_folder(root):
    """CUB-200-2011 with segmentations beside it."""
    images, labels, split = [], [], []
    for place, number in enumerate((1, 2, 1, 2, 1, 2)):
        name = f"{number:03}.Bird_{number}/Bird_{place}.jpg"
        picture, mask = scene(number, place)
        save(root / "CUB_200_2011" / "images" / name, picture)
        # Three of five annotators saw the bird, one saw something of it in the first column.
        grey = np.where(mask > 0, 153, 0).astype(np.uint8)
        grey[:, 0] = 51
        save((root / "segmentations" / name).with_suffix(".png"), grey)
        images.append(f"{place + 1} {name}")
        labels.append(f"{place + 1} {number}")
        split.append(f"{place + 1} {int(place < 4)}")
    lists = {
        "images.txt": images,
        "image_class_labels.txt": labels,
        "train_test_split.txt": split,
        "classes.txt": ["1 001.Bird_1", "2 002.Bird_2"],
    }
    for name, lines in lists.items():
        (root / "CUB_200_2011" / name).write_text("\n".join(lines) + "\n")
    return root


def sop_folder(root):
    """Stanford Online Products: three products of the test split, one alone in its class."""
    lines = ["image_id class_id super_class_id path"]
    for place, number in enumerate((1, 1, 2, 2, 3)):
        name = f"bicycle_final/{number}_{place}.JPG"
        save(root / name, scene(number, place)[0])
        lines.append(f"{place + 1} {number} 1 {name}")
    (root / "Ebay_test.txt").write_text("\n".join(lines) + "\n")
    (root / "Ebay_train.txt").write_text(lines[0] + "\n")
    return root


def plain_folder(root, split=False):
    """images/ and masks/, with or without a split."""
    for place, number in enumerate((1, 2, 1, 2)):
        picture, labels = scene(number, place)
        save(root / "images" / f"p{place}.png", picture)
        save(root / "masks" / f"p{place}.png", labels)
    (root / "classes.txt").write_text("1 red square\n2 blue square\n")
    if split:
        (root / "train.txt").write_text("p0\np1\n")
        (root / "val.txt").write_text("p2\np3\n")
    return root
