"""Writes samples of what torch gives for seeded state dicts: ``golden/backbones.npz``.

Run as ``python tests/make_golden_backbones.py`` where torch and torchvision are installed.
"""

import numpy as np
from seeded import seeded_pictures, seeded_state_dict
from test_backbones_parity import CONVOLUTIONAL, GOLDEN, SIDE, samples
from torch_references import reference, run_reference

from shapjax.backbones import load


def main():
    """Samples of the maps that have the channels of ours, and of the output."""
    x = seeded_pictures(1, SIDE)
    arrays = {}
    for name in CONVOLUTIONAL:
        weights = seeded_state_dict(name)
        stages = [stage for stage, _ in load(name, weights).network.stages()]
        maps, output = run_reference(name, reference(name, weights)[0], x, stages)
        if name == "resnet50_cub_margin":
            output = output / np.linalg.norm(output, axis=1, keepdims=True)
        kept = {stage: maps[stage] for stage in stages if stage in maps}
        if name == "densenet121":
            # A layer of a block gives its new channels only.
            kept = {stage: map_ for stage, map_ in kept.items() if "denselayer" not in stage}
        kept["output"] = output
        arrays[f"{name}/stages"] = np.array(list(kept))
        arrays[f"{name}/values"] = np.stack([samples(map_) for map_ in kept.values()])
        print(name, len(kept))
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, **arrays)


if __name__ == "__main__":
    main()
