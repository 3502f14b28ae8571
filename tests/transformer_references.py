"""The publishers' transformers in torch, for parity with ours, from state dicts of a seed."""

import json

import numpy as np
import safetensors.numpy
from torch_references import torchvision_models

DINOV2 = {"dinov2_vits14": (384, 6), "dinov2_vitb14": (768, 12)}
PATCHES = {"clip_vit_b_32": 32, "clip_vit_b_16": 16}


def fused(arrays, joint, parts=("query", "key", "value")):
    """Arrays with query, key and value as one, under the name ``joint`` puts in their place."""
    together = {}
    for name, array in arrays.items():
        stem, _, kind = name.rpartition(".")
        module, _, part = stem.rpartition(".")
        if part not in parts:
            together[name] = array
        elif part == parts[0]:
            rows = [arrays[f"{module}.{other}.{kind}"] for other in parts]
            together[joint(module, kind)] = np.concatenate(rows)
    return together


def write_hub_folder(folder, arrays, config):
    """A folder as the Hugging Face hub has them, less the vocabulary."""
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    safetensors.numpy.save_file(contiguous, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))


def reference(name, arrays, folder, depth=None):
    """The torch network; those of transformers read it from ``folder``, which is written first.

    Args:
        depth: number of blocks, where it is not the published one.
    """
    models = torchvision_models()  # transformers imports torchvision, too
    if name == "vit_b_16":
        return _vit(models, arrays, depth or 12)
    import transformers

    if name in DINOV2:
        width, heads = DINOV2[name]
        kind = transformers.Dinov2Model
        config = transformers.Dinov2Config(
            hidden_size=width,
            num_attention_heads=heads,
            num_hidden_layers=depth or 12,
            image_size=518,
        )
    elif name in PATCHES:
        kind = transformers.CLIPModel
        config = transformers.CLIPConfig(
            vision_config={"patch_size": PATCHES[name], "num_hidden_layers": depth or 12},
            text_config={"num_hidden_layers": depth or 12},
        )
    else:
        kind = transformers.BertModel
        config = transformers.BertConfig(
            hidden_size=384,
            num_hidden_layers=depth or 6,
            num_attention_heads=12,
            intermediate_size=1536,
            layer_norm_eps=1e-12,
        )
    write_hub_folder(folder, arrays, config.to_dict())
    network, report = kind.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return network.eval()


def _vit(models, arrays, depth):
    import torch

    network = models.VisionTransformer(
        image_size=224, patch_size=16, num_layers=depth, num_heads=12, hidden_dim=768, mlp_dim=3072
    )
    arrays = fused(arrays, lambda module, kind: f"{module}.in_proj_{kind}")
    network.load_state_dict({key: torch.from_numpy(value) for key, value in arrays.items()})
    return network.eval()


TOWERS = {
    "vit_b_16": ("encoder.dropout", "encoder.layers.encoder_layer_", "encoder.ln"),
    "dinov2": ("embeddings", "encoder.layer.", "layernorm"),
    "clip": ("vision_model.pre_layrnorm", "vision_model.encoder.layers.", None),
    "text": ("text_model.embeddings", "text_model.encoder.layers.", "text_model.final_layer_norm"),
    "minilm": ("embeddings", "encoder.layer.", None),
}
"""Torch's modules whose outputs are the stages tokens, blocks and last."""


NAMES = ("vit_b_16", *DINOV2, *PATCHES, "minilm_l6")


def arguments(name, x):
    """What torch's network is called with for input of ours; CLIP gets a text as well."""
    if name == "minilm_l6":
        return {"input_ids": x, "attention_mask": np.ones_like(x)}
    given = {
        "x" if name == "vit_b_16" else "pixel_values": np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    }
    return given | ({"input_ids": np.array([[49406, 320, 49407]])} if name in PATCHES else {})


def torch_module(tower, stage):
    """The name of the torch module of one of our stages; None where it has none."""
    tokens, blocks, last = TOWERS[tower]
    known = {"tokens": tokens, "last": last}
    return known[stage] if stage in known else blocks + stage.removeprefix("blocks.")


def run_reference(network, tower, stages, inputs):
    """What torch gives: the outputs of the named stages, and that of the whole network."""
    import torch

    outputs, modules, hooks = {}, dict(network.named_modules()), []

    def keep(stage):
        def hook(module, given, output):
            first = output[0] if isinstance(output, tuple) else output
            outputs[stage] = first.detach().numpy().copy()

        return hook

    for stage in stages:
        name = torch_module(tower, stage)
        if name is not None:
            hooks.append(modules[name].register_forward_hook(keep(stage)))
    with torch.no_grad():
        result = network(**{key: torch.from_numpy(value) for key, value in inputs.items()})
    for hook in hooks:
        hook.remove()
    return outputs, result
