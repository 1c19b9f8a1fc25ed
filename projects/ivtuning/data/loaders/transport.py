"""Batches on their way from a worker process: one block of shared memory for all tensors of a batch.

torch passes every tensor in a block of its own, with a handshake between the processes for each: for a sample
of two images, boxes and classes that takes longer than copying them.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, NamedTuple

import torch
from torch import Tensor

_ALIGN = 16  # bytes, more than any dtype needs


class Packed(NamedTuple):
    """What :func:`pack` made of an object."""

    pickled: bytes
    block: Tensor  # (bytes,) uint8


class _Packer(pickle.Pickler):
    """Pickles all but plain tensors, which it collects, with the place of each in the block."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.tensors: list[tuple[int, Tensor]] = []
        self.end = 0

    def persistent_id(self, value: Any) -> tuple | None:
        if type(value) is not Tensor or not _is_plain(value):
            return None
        start = -(-self.end // _ALIGN) * _ALIGN
        self.tensors.append((start, value))
        self.end = start + value.nbytes
        return start, self.end, value.dtype, tuple(value.shape)


class _Unpacker(pickle.Unpickler):
    def __init__(self, packed: Packed):
        super().__init__(io.BytesIO(packed.pickled))
        self.block = packed.block

    def persistent_load(self, place: tuple) -> Tensor:
        start, end, dtype, shape = place
        return self.block[start:end].view(dtype).view(shape)


def _is_plain(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.layout is torch.strided and not tensor.requires_grad


def pack(value: Any) -> Packed:
    """Anything that can be pickled, with the plain CPU tensors in it copied to one block of shared memory."""
    file = io.BytesIO()
    packer = _Packer(file)
    packer.dump(value)
    # Shared from the start, as in torch's default_collate: otherwise all is copied once more on the way.
    block = torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(packer.end))
    for start, tensor in packer.tensors:
        block[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)
    return Packed(file.getvalue(), block)


def unpack(packed: Packed) -> Any:
    """What was packed. Its tensors are views of the block, which lives as long as any of them."""
    return _Unpacker(packed).load()
