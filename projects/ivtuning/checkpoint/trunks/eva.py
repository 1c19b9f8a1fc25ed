"""EVA-02's released weights, brought to timm's names."""

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
    """Whether `names`, of a trunk's tensors, are an EVA-02's."""
    return any(n.endswith(".attn.q_proj.weight") for n in names)


def to_timm(file: dict[str, Tensor]) -> list[str]:
    """Rename the keys of `file`, an EVA-02 trunk, where the release names them otherwise.

    Returns:
        Names of what the architecture makes itself (rotary positions) or pretraining alone needs; it is taken
        out of `file`.
    """
    extra = [n for n in file if "rope" in n.split(".") or n.startswith("lm_head.")]
    for name in extra:
        del file[name]
    for name in list(file):
        file[".".join(_RENAMED.get(part, part) for part in name.split("."))] = file.pop(name)
    return extra
