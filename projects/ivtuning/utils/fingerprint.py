"""The fingerprint by which an adapter knows the base that it was trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


@torch.no_grad()
def fingerprint(tensors: Mapping[str, Tensor]) -> str:
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
