"""Writes samples of what torch gives for seeded state dicts: ``golden/transformers.npz``.

Run as ``python tests/make_golden_transformers.py`` where torch, torchvision and transformers are
installed.
"""

import tempfile
from pathlib import Path

import numpy as np
from seeded import seeded_state_dict
from test_transformers import GOLDEN, NAMES, SHALLOW, golden_inputs, make_shallow, samples
from transformer_references import reference, run_reference

STAGES = ("tokens", *(f"blocks.{place}" for place in range(SHALLOW)), "last")


def main():
    """Samples of every stage that is a module in torch, of two blocks."""
    make_shallow(setattr)
    arrays = {}
    for name in NAMES:
        weights = seeded_state_dict(name)
        with tempfile.TemporaryDirectory() as folder:
            network = reference(name, weights, Path(folder), SHALLOW)
            given = dict(golden_inputs(name))
            for tower, x in given.items():
                outputs, _ = run_reference(network, tower, STAGES, inputs_of(name, given))
                arrays[f"{name}/{tower}/stages"] = np.array(list(outputs))
                arrays[f"{name}/{tower}/values"] = np.stack([samples(o) for o in outputs.values()])
                print(name, tower, x.shape, len(outputs))
    np.savez_compressed(GOLDEN, **arrays)


def inputs_of(name, given):
    """Torch's arguments."""
    inputs = {}
    for tower, x in given.items():
        if tower in ("text", "minilm"):
            inputs["input_ids"] = x
        else:
            key = "x" if name == "vit_b_16" else "pixel_values"
            inputs[key] = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    return inputs


if __name__ == "__main__":
    main()
