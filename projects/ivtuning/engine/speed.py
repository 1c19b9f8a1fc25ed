"""Settings of `train` that save memory and time: bf16 frozen weights, compiled blocks, channels-last maps."""

from __future__ import annotations

import contextlib
import logging

import torch
from omegaconf import DictConfig
from torch import nn

from ..backbones.trunk import Trunk
from ..errors import UserError

logger = logging.getLogger("ivtuning")


def speed_up(model: nn.Module, trunk: Trunk, options: DictConfig) -> None:
    """Apply the settings of `options` to `model`, whose weights have been loaded.

    The state dict keeps its names and values, except for frozen weights in bfloat16, which checkpoints hold
    in float32 again.

    Args:
        trunk: the model's.
        options: the config's `train`.

    Raises:
        UserError: torch.compile does not work on this machine, or not with `activation_checkpointing`.
    """
    if options.frozen_dtype == "bf16":
        before = sum(p.nbytes for p in model.parameters())
        halve_frozen(trunk)
        after = sum(p.nbytes for p in model.parameters())
        logger.info(
            "frozen weights in bf16: %.1f MB of parameters instead of %.1f", after / 1e6, before / 1e6
        )
    if options.channels_last:
        model.to(memory_format=torch.channels_last)
    if options.compile:
        if trunk.blocks[0].activation_checkpointing == "block":
            raise UserError(
                "train.compile=true does not go with activation_checkpointing=block: "
                "use activation_checkpointing=mlp or null"
            )
        need_compiler(next(model.parameters()).device)
        for block in trunk.blocks:
            block.compile()


def halve_frozen(trunk: nn.Module) -> None:
    """Keep the frozen weights of linear layers and convolutions in bfloat16, without a copy in float32.

    Autocast rounds them to bfloat16 in every pass anyway, so a pass in that precision gives the same bits.
    Norms, biases and position tables stay as they are: small, and not used in bfloat16.
    """
    for module in trunk.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and not module.weight.requires_grad:
            module.weight.data = module.weight.data.bfloat16()


def matching_precision(model: nn.Module) -> contextlib.AbstractContextManager:
    """The autocast that evaluation needs: bf16 where frozen weights are kept in it, otherwise none."""
    half = next((p for p in model.parameters() if p.dtype == torch.bfloat16), None)
    if half is None:
        return contextlib.nullcontext()
    return torch.autocast(half.device.type, torch.bfloat16)


def need_compiler(device: torch.device) -> None:
    """Compile something small, so that a missing compiler is reported before training starts.

    Raises:
        UserError: it fails.
    """
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=device))
    except Exception as error:  # several libraries raise errors of many kinds
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"train.compile=true does not work on this machine ({reason}): install a C++ compiler (g++, or "
            "name one in CXX; CUDA needs triton as well), or set train.compile=false"
        ) from error
