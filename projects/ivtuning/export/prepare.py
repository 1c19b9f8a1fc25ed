"""A copy of a model in the form that its file has: nothing of training, plain operations, half precision."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ..backbones.trunk import find_trunk


def prepared(model: nn.Module, precision: str = "fp32") -> nn.Module:
    """A copy of `model` on the CPU, in evaluation mode, that computes the same and never trains.

    LoRA is merged into the base, and IV-tuning's constants are multiplied out. Attention is computed by its
    definition, which every runtime knows and fuses in its own way.

    Args:
        precision: "fp16" puts the backbone into half precision, but for its stem, whose SimAM sums squares
            over the whole map. Heads stay in full precision, since half cannot hold coordinates.

    Raises:
        UserError: LoRA holds infinite or NaN values.
    """
    model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    trunk = find_trunk(model).trunk
    trunk.tuner.fold(trunk)
    trunk.set_attn_backend("plain")
    if precision == "fp16":
        model.backbone.half()
        for module in (trunk.stem, trunk.patch_embed):
            module.float()
        trunk.stem.register_forward_hook(lambda module, args, outputs: _cast(outputs, torch.float16))
        model.backbone.register_forward_hook(lambda module, args, outputs: _cast(outputs, torch.float32))
    return model


def _cast(outputs: Tensor | tuple | dict | None, dtype: torch.dtype) -> Tensor | tuple | dict | None:
    """Tensors, or a tuple or dict of them, in another precision."""
    if isinstance(outputs, Tensor):
        return outputs.to(dtype)
    if isinstance(outputs, dict):
        return {name: _cast(value, dtype) for name, value in outputs.items()}
    return None if outputs is None else tuple(_cast(value, dtype) for value in outputs)
