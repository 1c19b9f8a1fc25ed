"""The releases of DINOv2 and DINOv3 under timm's names."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import Tensor

from ...errors import UserError

_V2_NAMES = {"w12": "fc1", "w3": "fc2"}
_V3_NAMES = {"storage_tokens": "reg_token", "w1": "fc1_g", "w2": "fc1_x", "w3": "fc2"}
_PROJECTION_BIASES = ("qkv.bias", "q_bias", "v_bias")


def is_dinov3(names: Iterable[str]) -> bool:
    """Whether the tensor names of a trunk are those of a DINOv3."""
    names = set(names)
    return "storage_tokens" in names or ("reg_token" in names and "blocks.0.gamma_1" in names)


def dinov2_to_timm(file: dict[str, Tensor]) -> None:
    """Rename the release's keys in `file`, a DINOv2 trunk, to timm's.

    With registers timm has no position for the class token; it is added to the token itself.
    """
    for name in list(file):
        file[_renamed(name, _V2_NAMES)] = file.pop(name)
    token, positions = file.get("cls_token"), file.get("pos_embed")
    if "register_tokens" not in file or token is None or positions is None or positions.dim() != 3:
        return
    file["reg_token"] = file.pop("register_tokens")
    if positions.shape[-1] == token.shape[-1]:
        file["cls_token"], file["pos_embed"] = token + positions[:, :1], positions[:, 1:]


def dinov3_to_timm(file: dict[str, Tensor]) -> list[str]:
    """Rename the release's keys in `file`, a DINOv3 trunk, to timm's.

    Returns:
        Names of tensors that the trunk computes itself, that only pretraining needs, or that are biases of
        zero; they are removed from `file`.

    Raises:
        UserError: biases of query, key and value that are not zero.
    """
    extra = [n for n in file if n.startswith(("rope_embed.", "local_cls_norm.")) or n.endswith(".bias_mask")]
    for name in [n for n in file if n.endswith(_PROJECTION_BIASES)]:
        # The key's bias has no effect: it adds the same to all scores of a query. The release masks it.
        biases = file[name].flatten().chunk(3)[::2] if name.endswith("qkv.bias") else [file[name]]
        if any(bias.any() for bias in biases):
            raise UserError(f"has biases of query, key and value ({name}), which DINOv3 lacks")
        extra.append(name)
    for name in extra:
        del file[name]
    for name in list(file):
        new = re.sub(r"\.ls([12])\.gamma$", r".gamma_\1", _renamed(name, _V3_NAMES))
        file[new] = file.pop(name)
    return extra


def _renamed(name: str, names: dict[str, str]) -> str:
    return ".".join(names.get(part, part) for part in name.split("."))
