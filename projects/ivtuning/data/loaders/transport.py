"""Transport of batches from worker processes: all tensors of a batch share one block of shared memory.

torch sends every tensor in its own block, each with a handshake between the processes. For samples of two
images, boxes and classes that takes longer than copying the tensors.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, NamedTuple

import torch
from torch import Tensor

_ALIGN = 16  # bytes, more than any dtype needs


class Packed(NamedTuple):
    """An object packed by :func:`pack`."""

    pickled: bytes
    block: Tensor  # (bytes,) uint8


class _Packer(pickle.Pickler):
    """Pickles everything but plain tensors, which it collects with the offset of each in the block."""

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

    def persistent_load(self, pid: tuple) -> Tensor:
        start, end, dtype, shape = pid
        return self.block[start:end].view(dtype).view(shape)


def _is_plain(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.layout is torch.strided and not tensor.requires_grad


def pack(value: Any) -> Packed:
    """Pack any object that can be pickled; its plain CPU tensors are copied to one block of shared memory."""
    file = io.BytesIO()
    packer = _Packer(file)
    packer.dump(value)
    # Allocated in shared memory, as in torch's default_collate: otherwise sending would copy it there.
    block = torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(packer.end))
    for start, tensor in packer.tensors:
        block[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)
    return Packed(file.getvalue(), block)


def unpack(packed: Packed) -> Any:
    """The packed object. Its tensors are views of the block, which lives as long as any of them."""
    return _Unpacker(packed).load()
