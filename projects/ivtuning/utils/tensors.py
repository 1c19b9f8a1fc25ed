"""Tensors of a model: what tells them apart, the check of what is to be copied into them, and the copying."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import UserError

# What weights are stored in. Narrower floats and integers need scales that a state dict alone does not name.
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers of `module`; a tensor with several names has its first one here."""
    kept = module.state_dict().keys()
    tensors = dict(module.named_parameters())
    tensors.update((n, b) for n, b in module.named_buffers() if n in kept)
    return tensors


@torch.no_grad()
def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """sha256, in hex, of names, shapes and up to 1,024 values of every tensor.

    Values are compared in bfloat16, so that tensors and their bfloat16 copies agree.
    """
    digest = hashlib.sha256()
    samples = []
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        step = max(1, -(-tensor.numel() // 1024))
        samples.append(tensor.flatten()[::step].to(torch.bfloat16))
    if samples:
        # One transfer for all: a trunk on a GPU has hundreds of tensors.
        digest.update(torch.cat(samples).cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def check_values(new: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
    """Raise UserError where a tensor of `new` is not what the one of the same name in `targets` can take.

    Weights are finite floats. Counters may be floats of whole numbers, as ``half()`` makes them.
    """
    for name, tensor in new.items():
        if tensor.is_meta or not tensor.numel():
            continue
        theirs, ours = (str(t.dtype).removeprefix("torch.") for t in (tensor, targets[name]))
        floating = targets[name].is_floating_point()
        if tensor.dtype not in FLOATS:
            if floating or tensor.is_complex() or tensor.is_floating_point():
                raise UserError(f"{name} is {theirs}, the model's is {ours}: save it as {ours}")
            continue
        # Unlike isfinite, this needs no memory of its own.
        if not all(end.isfinite() for end in torch.aminmax(tensor)):
            odd, all_ = (f"{int(n):,}" for n in ((~tensor.isfinite()).sum(), tensor.numel()))
            raise UserError(
                f"{name} holds NaN or infinite values ({odd} of {all_}): the run that wrote the "
                "file diverged, or the file is damaged: give an earlier checkpoint, or fetch the file again"
            )
        if not floating and (tensor != tensor.round()).any():
            raise UserError(f"{name} holds {theirs} fractions, the model's is {ours}: save it as {ours}")


@torch.no_grad()
def copy_into(model: nn.Module, new: Mapping[str, Tensor]) -> None:
    """Copy `new` into the tensors of `model` with the same names, in their dtype and on their device."""
    targets = model.state_dict()
    for name, tensor in new.items():
        targets[name].copy_(tensor)
