"""EVA-02's released weights under timm's names."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

_RENAMED = {
    "q_bias": "q_proj.bias",
    "v_bias": "v_proj.bias",
    "ffn_ln": "norm",
    "w1": "fc1_g",
    "w2": "fc1_x",
    "w3": "fc2",
}


def is_eva(names: Iterable[str]) -> bool:
    """Whether the tensor names of a trunk are those of an EVA-02."""
    return any(n.endswith(".attn.q_proj.weight") for n in names)


def to_timm(file: dict[str, Tensor]) -> list[str]:
    """Rename the release's keys in `file`, an EVA-02 trunk, to timm's.

    Returns:
        Names of tensors that the architecture computes itself (rotary positions) or that only pretraining
        needs; they are removed from `file`.
    """
    extra = [n for n in file if "rope" in n.split(".") or n.startswith("lm_head.")]
    for name in extra:
        del file[name]
    for name in list(file):
        file[".".join(_RENAMED.get(part, part) for part in name.split("."))] = file.pop(name)
    return extra
