"""The publishers' networks in torch, for parity with ours; torchvision's, where it has them."""

import functools
import re

import numpy as np
import pytest
from seeded import seeded_arrays


@functools.cache
def torchvision_models():
    """``torchvision.models``, also where torchvision's compiled operators do not load.

    The wheel of the registry is built for CUDA; beside a CPU torch its extension stays out, and
    the import fails because two operators that its Python registers have no schema. Declaring
    the schemas is enough to build models.
    """
    torch = pytest.importorskip("torch", reason="torch is not installed")
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            library.define(f"{operator}(Tensor dets, Tensor scores, float threshold) -> Tensor")
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    torchvision_models.library = library  # Schemas last as long as their library.
    return torchvision.models


def has(name):
    """Whether there is a torch network of this backbone here."""
    return name in HEADS or hasattr(torchvision_models(), name)


def reference(name, arrays=None):
    """The torch network of a backbone, and its state dict by the names in its weight file.

    Args:
        name: of a backbone that ``has`` one.
        arrays: the state dict; by default one made from a seed.

    Returns:
        The network, in evaluation mode, and the arrays.
    """
    import torch

    models = torchvision_models()
    network = getattr(models, "resnet50" if name in HEADS else name)(weights=None)
    prefix, fc = HEADS.get(name, ("", "fc"))
    if name == "moco_v2":
        layers = [torch.nn.Linear(2048, 2048), torch.nn.ReLU(), torch.nn.Linear(2048, 128)]
        network.fc = torch.nn.Sequential(*layers)
    elif name == "resnet50_cub_margin":
        network.fc = torch.nn.Linear(2048, 128)
    network.eval()
    in_file = {
        prefix + re.sub(r"^fc\b", fc, key): key
        for key, value in network.state_dict().items()
        if value.is_floating_point()
    }
    if arrays is None:
        state = network.state_dict()
        arrays = seeded_arrays({key: tuple(state[own].shape) for key, own in in_file.items()})
    tensors = {in_file[key]: torch.from_numpy(array) for key, array in arrays.items()}
    missing, unexpected = network.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing)
    return network, arrays


HEADS = {"moco_v2": ("encoder_q.", "fc"), "resnet50_cub_margin": ("", "last_linear")}
"""ResNet-50s that torchvision does not have: the prefix of names in the file, and the head's."""

SQUEEZENET = {"conv1": 1, "pool1": 2, "fire2": 3, "fire3": 4, "pool3": 5, "fire4": 6, "fire5": 7}
SQUEEZENET |= {"pool5": 8, "fire6": 9, "fire7": 10, "fire8": 11, "fire9": 12}
OTHER_NAMES = {"squeezenet1_1": {key: f"features.{index}" for key, index in SQUEEZENET.items()}}
"""Torch's modules of the stages, where a backbone does not call them by torch's names."""


def run_reference(name, network, x, stages):
    """What torch gives: the maps of the named stages [B, h, w, C], and the network's output."""
    import torch

    maps, modules = {}, dict(network.named_modules())
    other = OTHER_NAMES.get(name, {})
    modules = {stage: modules.get(other.get(stage, stage)) for stage in stages}

    def keep(name):
        def hook(module, inputs, output):
            # A copy: rectifiers work in place on what the layer before them gave.
            maps[name] = output.detach().clone()

        return hook

    hooks = [m.register_forward_hook(keep(stage)) for stage, m in modules.items() if m]
    with torch.no_grad():
        output = network(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))))
    for hook in hooks:
        hook.remove()
    return {name: _channels_last(value.numpy()) for name, value in maps.items()}, output.numpy()


def features(name, network, x):
    """Torch's counterpart of a backbone's features."""
    if name == "densenet121":
        maps, _ = run_reference(name, network, x, ["features.norm5"])
        return np.maximum(maps["features.norm5"], 0)
    last = LAST.get(name) or _last_map(name, network)
    maps, _ = run_reference(name, network, x, [last])
    if name == "resnet50_cub_margin":
        weight, bias = network.fc.weight.detach().numpy(), network.fc.bias.detach().numpy()
        return maps[last] @ weight.T + bias
    return maps[last]


LAST = {"squeezenet1_1": "fire9", "vit_b_16": "encoder"}


def _last_map(name, network):
    if hasattr(network, "layer4"):
        return f"layer4.{len(network.layer4) - 1}"
    stages = [module for module, _ in network.named_modules() if module.startswith("features.")]
    return [stage for stage in stages if stage.count(".") == 1][-1]


def _channels_last(value):
    # torch's convolutional maps are NCHW; ConvNeXt's and the tokens of transformers are not, but
    # those of ConvNeXt are put back before a module ends.
    return value.transpose(0, 2, 3, 1) if value.ndim == 4 else value


def first_difference(ours, theirs, tolerance=1e-4):
    """The first stage whose maps differ, by how much, or None: where to look for a mistake.

    Args:
        ours: maps by stage, in order.
        theirs: likewise, perhaps of some stages only; where a map has fewer channels (the new
            ones of a dense block) they are held against the last ones of ours.
        tolerance: largest difference allowed, as a share of the largest entry.
    """
    for name, map_ in ours.items():
        if name in theirs:
            want = theirs[name]
            got = np.asarray(map_)[..., -want.shape[-1] :]
            if got.shape != want.shape:
                return name, f"shape {got.shape} instead of {want.shape}"
            error = np.abs(got - want).max() / np.abs(want).max()
            if not error <= tolerance:
                return name, float(error)
    return None
