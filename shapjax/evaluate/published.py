"""What the papers print, to set beside what is computed here.

Source: Hamilton et al., ICLR 2022: table 1 (Pascal VOC), 2 (Stanford Online Products), 3 (CUB)
and 4 (MS COCO), all without standard errors; v1 of the same paper (2021): table 1 (Pascal VOC,
200 pairs) with seconds on an Azure NV24 (one M60) and standard errors. Both have the mIoU of the
same networks, so v1's stands under names of its own, such as "RN50 (v1)".

They had other pictures of the same data sets paired by MoCo v2, networks of their own and seconds
of 2021's hardware, so they are a landmark, not a target to the digit.
"""

from __future__ import annotations

from typing import NamedTuple

METHODS_OF_PAPER = (
    "sbsm",
    "partition-shap",
    "lime",
    "kernel-shap",
    "vesm",
    "gradcam",
    "sam",
    "ig-sam",
    "kernel-sam",
)
"""Columns of tables 1 to 4, in their order."""

NETWORKS = {
    "densenet121": "DN121",
    "moco_v2": "MoCoV2",
    "resnet50": "RN50",
    "resnet50_cub_margin": "RN50-ML",
    "vgg11": "VGG11",
}
"""Networks of the paper by their names here."""


class Published(NamedTuple):
    """A number of the paper, a mean, in the digits that it prints.

    Attributes:
        value: as printed, such as "0.10".
        standard_error: of the mean likewise, where it is printed.
    """

    value: str
    standard_error: str | None = None


_VOC = """
faithfulness 1 DN121  0.18 0.26 0.23 0.24 0.08 0.12 0.12 0.20 0.20
faithfulness 1 MoCoV2 0.22 0.30 0.28 0.30 0.13 0.19 0.21 0.25 0.25
faithfulness 1 RN50   0.11 0.16 0.14 0.14 0.04 0.08 0.07 0.11 0.11
faithfulness 1 VGG11  0.14 0.16 0.15 0.15 0.05 0.09 0.11 0.14 0.14
faithfulness 2 DN121  0.48 - 0.54 0.54 - - 0.48 0.48 0.49
faithfulness 2 MoCoV2 0.69 - 0.74 0.74 - - 0.72 0.70 0.71
faithfulness 2 RN50   0.74 - 0.77 0.77 - - 0.74 0.74 0.74
faithfulness 2 VGG11  0.68 - 0.71 0.71 - - 0.69 0.69 0.70
inefficiency 1 DN121  - 0.00 0.20 0.00 - 12.8 0.56 0.02 0.00
inefficiency 1 MoCoV2 - 0.00 0.10 0.00 - 0.46 0.53 0.03 0.00
inefficiency 1 RN50   - 0.00 0.22 0.00 - 14.9 0.47 0.03 0.00
inefficiency 1 VGG11  - 0.00 0.27 0.00 - 4.20 0.54 0.05 0.00
inefficiency 2 DN121  - - 0.14 0.01 - - 0.21 0.03 0.01
inefficiency 2 MoCoV2 - - 0.13 0.01 - - 0.20 0.02 0.01
inefficiency 2 RN50   - - 0.06 0.01 - - 0.06 0.01 0.01
inefficiency 2 VGG11  - - 0.11 0.01 - - 0.22 0.03 0.01
mean_iou 2 DN121  0.55 - 0.68 0.67 - - 0.68 0.68 0.67
mean_iou 2 MoCoV2 0.57 - 0.70 0.69 - - 0.70 0.70 0.69
mean_iou 2 RN50   0.55 - 0.67 0.66 - - 0.69 0.66 0.65
mean_iou 2 VGG11  0.54 - 0.68 0.67 - - 0.72 0.73 0.70
"""

_SOP = """
faithfulness 1 DN121  0.18 0.23 0.20 0.22 0.09 0.13 0.12 0.18 0.18
faithfulness 1 MoCoV2 0.24 0.30 0.27 0.18 0.14 0.2 0.21 0.24 0.24
faithfulness 1 RN50   0.11 0.14 0.12 0.13 0.03 0.07 0.07 0.10 0.10
faithfulness 1 VGG11  0.15 0.16 0.14 0.15 0.04 0.08 0.09 0.12 0.12
inefficiency 1 DN121  - 0.00 0.24 0.00 - 11.2 0.54 0.02 0.00
inefficiency 1 MoCoV2 - 0.00 0.17 0.00 - 0.34 0.57 0.02 0.00
inefficiency 1 RN50   - 0.00 0.21 0.00 - 13.6 0.39 0.02 0.00
inefficiency 1 VGG11  - 0.00 0.24 0.00 - 4.13 0.47 0.04 0.00
"""

_CUB = """
faithfulness 1 DN121   0.25 0.38 0.31 0.34 0.15 0.10 0.12 0.30 0.30
faithfulness 1 RN50-ML 0.39 0.49 0.47 0.49 0.04 0.14 0.17 0.41 0.41
faithfulness 1 MoCoV2  0.32 0.47 0.39 0.41 0.26 0.26 0.26 0.34 0.34
faithfulness 1 RN50    0.14 0.21 0.18 0.18 0.05 0.07 0.07 0.14 0.14
faithfulness 1 VGG11   0.23 0.31 0.26 0.27 0.11 0.15 0.16 0.23 0.22
inefficiency 1 DN121   - 0.00 0.17 0.00 - 16.0 0.58 0.02 0.00
inefficiency 1 RN50-ML - 0.00 0.13 0.00 - 5.23 0.48 0.03 0.00
inefficiency 1 MoCoV2  - 0.00 0.19 0.00 - 0.44 0.60 0.03 0.00
inefficiency 1 RN50    - 0.00 0.15 0.00 - 15.5 0.43 0.02 0.00
inefficiency 1 VGG11   - 0.00 0.17 0.00 - 4.25 0.54 0.05 0.00
"""

_COCO = """
faithfulness 1 DN121  0.18 0.24 0.22 0.22 0.10 0.12 0.11 0.14 0.17
faithfulness 1 MoCoV2 0.25 0.37 0.33 0.35 0.15 0.23 0.24 0.24 0.28
faithfulness 1 RN50   0.10 0.14 0.12 0.12 0.04 0.07 0.07 0.07 0.09
faithfulness 1 VGG11  0.14 0.15 0.14 0.14 0.05 0.09 0.1 0.10 0.12
faithfulness 2 DN121  0.49 - 0.57 0.57 - - 0.5 0.51 0.49
faithfulness 2 MoCoV2 0.73 - 0.79 0.79 - - 0.77 0.77 0.78
faithfulness 2 RN50   0.73 - 0.78 0.78 - - 0.75 0.75 0.73
faithfulness 2 VGG11  0.67 - 0.73 0.73 - - 0.71 0.71 0.72
inefficiency 1 DN121  - 0.00 0.22 0.00 - 12.3 0.6 0.02 0.00
inefficiency 1 MoCoV2 - 0.00 0.11 0.00 - 0.46 0.66 0.02 0.00
inefficiency 1 RN50   - 0.00 0.22 0.00 - 15.8 0.47 0.02 0.00
inefficiency 1 VGG11  - 0.00 0.31 0.00 - 3.47 0.59 0.04 0.00
inefficiency 2 DN121  - - 0.15 0.01 - - 0.20 0.01 0.00
inefficiency 2 MoCoV2 - - 0.10 0.01 - - 0.09 0.02 0.00
inefficiency 2 RN50   - - 0.07 0.01 - - 0.07 0.02 0.00
inefficiency 2 VGG11  - - 0.11 0.01 - - 0.19 0.04 0.00
mean_iou 2 DN121  0.50 - 0.62 0.61 - - 0.62 0.63 0.52
mean_iou 2 MoCoV2 0.52 - 0.62 0.61 - - 0.64 0.66 0.60
mean_iou 2 RN50   0.50 - 0.62 0.61 - - 0.63 0.65 0.48
mean_iou 2 VGG11  0.50 - 0.62 0.61 - - 0.66 0.67 0.60
"""

_V1 = """
RN50 sbsm           19.5 0.0   0.1 0.003  87.4 0.01   0.32 0.005 0.52
RN50 sam            0.09 0.001 0.07 0.003 0.03 0.0    0.27 0.003 0.65
RN50 lime           32.6 0.02  0.11 0.004 120.9 0.06  0.26 0.004 0.62
RN50 ig             3.4 0.0    0.1 0.004  - -         - -        -
RN50 kernel-shap    44.4 0.1   0.11 0.004 129.4 0.87  0.25 0.005 0.65
RN50 partition-shap 45.0 0.01  0.15 0.004 - -         - -        -
VGG11 sbsm           16.3 0.01  0.12 0.005 68.7 0.02   0.41 0.007 0.53
VGG11 sam            0.07 0.003 0.1 0.005  0.05 0.001  0.31 0.003 0.72
VGG11 lime           29.8 0.02  0.12 0.005 109.0 0.04  0.32 0.005 0.63
VGG11 ig             3.1 0.01   0.08 0.005 - -         - -        -
VGG11 kernel-shap    41.4 0.07  0.12 0.005 115.5 0.71  0.31 0.006 0.67
VGG11 partition-shap 41.5 0.03  0.16 0.006 - -         - -        -
DN121 sbsm           21.4 0.01  0.16 0.006 88.5 0.01   0.6 0.008  0.54
DN121 sam            0.17 0.004 0.14 0.006 0.12 0.001  0.52 0.005 0.63
DN121 lime           34.4 0.02  0.18 0.006 130.5 0.06  0.5 0.006  0.62
DN121 ig             3.6 0.0    0.14 0.007 - -         - -        -
DN121 kernel-shap    46.2 0.06  0.19 0.007 130.5 1.03  0.49 0.008 0.65
DN121 partition-shap 47.6 0.02  0.24 0.007 - -         - -        -
"""
"""Network, method; seconds, its error, faithfulness_v1, its error (first order); seconds, its
error, distance_v1, its error, mIoU (second order)."""

Key = tuple[str, int, str, str]
"""Metric, order, network and method."""


def published(dataset: str) -> dict[Key, Published]:
    """Every printed number of a data set's table, by metric, order, network and method.

    Args:
        dataset: ``"voc"`` (with v1's table: the metrics ``faithfulness_v1``, ``distance_v1`` and
            ``seconds``, and ``mean_iou`` of networks such as "RN50 (v1)"), ``"sop"``, ``"cub"`` or
            ``"coco"``; any other has nothing.
    """
    found: dict[Key, Published] = {}
    for line in {"voc": _VOC, "sop": _SOP, "cub": _CUB, "coco": _COCO}.get(dataset, "").split("\n"):
        metric, order, network, *values = line.split() or ("", "0", "")
        for method, text in zip(METHODS_OF_PAPER, values, strict=bool(values)):
            if text != "-":
                found[metric, int(order), network, method] = Published(text)
    if dataset == "voc":
        found |= _first_version()
    return found


def _first_version() -> dict[Key, Published]:
    places = (
        ("seconds", 1, 0),
        ("faithfulness_v1", 1, 2),
        ("seconds", 2, 4),
        ("distance_v1", 2, 6),
    )
    found: dict[Key, Published] = {}
    for line in _V1.strip().splitlines():
        network, method, *values = line.split()
        for metric, order, at in places:
            if values[at] != "-":
                found[metric, order, network, method] = Published(*values[at : at + 2])
        if values[8] != "-":
            found["mean_iou", 2, f"{network} (v1)", method] = Published(values[8])
    return found
