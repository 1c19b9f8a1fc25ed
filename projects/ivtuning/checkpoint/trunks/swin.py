"""Swin weights of other projects under the official names and layout, those of Microsoft and detectron2."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

TABLE = "relative_position_bias_table"
# Buffers that older files keep, although they follow from the window's size.
_BUFFERS = ("relative_position_index", "attn_mask")
_MMDET_EMBED = "patch_embed.projection."
_MMDET = {
    _MMDET_EMBED: "patch_embed.proj.",
    "stages.": "layers.",
    ".attn.w_msa.": ".attn.",
    ".ffn.layers.0.0.": ".mlp.fc1.",
    ".ffn.layers.1.": ".mlp.fc2.",
}


def is_swin(names: Iterable[str]) -> bool:
    """Whether the tensor names of a trunk are those of a Swin."""
    return any(re.match(r"layers[._]\d+\.blocks\.\d+\.attn\.", n) for n in names)


def is_output_norm(name: str) -> bool:
    """Whether `name` belongs to a norm on a stage's output, which ImageNet weights lack."""
    return re.fullmatch(r"norm\d\.(weight|bias)", name) is not None


def from_mmdet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` with mmdet's Swin, if it has one, under the official names; all other tensors stay."""
    places = [n.partition(_MMDET_EMBED)[0] for n in state if n.endswith(f"{_MMDET_EMBED}weight")]
    places = [p for p in places if any(n.startswith(f"{p}stages.") for n in state)]
    new = {}
    for name, tensor in state.items():
        place = next((p for p in places if name.startswith(p)), None)
        if place is not None:
            inner = name.removeprefix(place)
            if ".downsample." in inner and tensor.numel() and tensor.shape[-1:].numel() % 4 == 0:
                tensor = _from_unfold(tensor)
            for theirs, official in _MMDET.items():
                inner = inner.replace(theirs, official)
            name = place + inner
        new[name] = tensor
    return new


def _from_unfold(tensor: Tensor) -> Tensor:
    """Patch merging's (..., 4C) weights: channel-major and row by row -> patch-major and column by column."""
    order = tensor.unflatten(-1, (-1, 2, 2))
    return order.permute(*range(order.dim() - 3), -1, -2, -3).flatten(-3)


def to_official(file: dict[str, Tensor]) -> list[str]:
    """Rename timm's keys in `file`, a Swin trunk, to the official ones.

    timm merges patches at the start of a stage, the official code at the end of the stage before. Models with
    ``features_only`` write layers_0 for layers.0.

    Returns:
        Names of buffers, which are removed from `file`.
    """
    buffers = [n for n in file if n.split(".")[-1] in _BUFFERS]
    for name in buffers:
        del file[name]
    merged = {n.split(".")[1] for n in map(_dotted, file) if re.match(r"layers\.\d+\.downsample\.", n)}
    back = 1 if merged and "0" not in merged else 0
    for name in list(file):
        parts = _dotted(name).split(".")
        if back and parts[2:3] == ["downsample"]:
            parts[1] = str(int(parts[1]) - back)
        file[".".join(parts)] = file.pop(name)
    return buffers


def _dotted(name: str) -> str:
    return re.sub(r"^layers_(\d+)\.", r"layers.\1.", name)
