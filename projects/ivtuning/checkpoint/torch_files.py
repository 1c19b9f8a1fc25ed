"""Reads what torch.save writes, today as a zip archive and formerly as several pickles in a row."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
import zlib
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .pickles import Unpickler, Unusable, plain

# What torch.save wrote first before it wrote zip archives.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def _no_storage(dtype: torch.dtype, key: str, numel: int) -> Tensor:
    raise pickle.UnpicklingError("tensors outside of a file of torch.save")


def read_pickle(file: BinaryIO) -> Any:
    """The content of a pickle, or of a file that torch.save wrote before there were zip archives.

    Raises:
        Unusable: it means to run code.
        Exception: of any type, where the file is damaged.
    """
    content = Unpickler(file, _no_storage).load()
    if isinstance(content, int) and content == _LEGACY_MAGIC:
        content = _read_legacy(file)
    return plain(content)


def _read_legacy(file: BinaryIO) -> Any:
    left = os.fstat(file.fileno()).st_size
    storages: dict[str, tuple[Tensor, int]] = {}

    def load_storage(dtype: torch.dtype, key: str, numel: int) -> Tensor:
        nonlocal left
        if key not in storages:
            left -= numel * dtype.itemsize
            if numel < 0 or left < 0:
                raise EOFError("its tensors are larger than the file")
            storages[key] = torch.empty(numel * dtype.itemsize, dtype=torch.uint8), numel
        return storages[key][0]

    _, system = (Unpickler(file, _no_storage).load() for _ in range(2))
    if not system.get("little_endian", True):
        raise Unusable("was written on a big-endian machine: save it again on another one")
    content = Unpickler(file, load_storage).load()
    for key in Unpickler(file, _no_storage).load():
        buffer, numel = storages[str(key)]
        if struct.unpack("<q", file.read(8))[0] != numel:
            raise EOFError("a tensor of another size")
        _fill(buffer, file)
    return content


def read_torch_zip(file: BinaryIO, archive: zipfile.ZipFile, root: str) -> Any:
    """The content of `archive`, which torch.save wrote to `file` with its parts in the folder `root`.

    Raises:
        Unusable: it means to run code, or holds more than its own size.
        Exception: of any type, where the file is damaged.
    """
    parts = {info.filename: info for info in archive.infolist()}
    declared = sum(info.file_size for info in parts.values())
    if declared > os.fstat(file.fileno()).st_size or any(info.compress_type for info in parts.values()):
        raise Unusable("has compressed parts, which torch.save never writes: save it again with torch.save")
    order = parts.get(f"{root}byteorder")
    if order and _read_part(file, order).numpy().tobytes() != b"little":
        raise Unusable("was written on a big-endian machine: save it again on another one")
    storages: dict[str, Tensor] = {}

    def load_storage(dtype: torch.dtype, key: str, numel: int) -> Tensor:
        if key not in storages:
            storages[key] = _read_part(file, parts[f"{root}data/{key}"])
        if not 0 <= numel * dtype.itemsize <= storages[key].numel():
            raise EOFError("its tensors are larger than the file")
        return storages[key]

    program = io.BytesIO(_read_part(file, parts[f"{root}data.pkl"]).numpy().tobytes())
    return plain(Unpickler(program, load_storage).load())


def _read_part(file: BinaryIO, info: zipfile.ZipInfo) -> Tensor:
    """The bytes of one file of a zip archive. zipfile's own reader copies them twice."""
    file.seek(info.header_offset)
    header = file.read(30)
    file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), os.SEEK_CUR)
    buffer = torch.empty(info.file_size, dtype=torch.uint8)
    _fill(buffer, file)
    # torch.save can leave the checksums out.
    if info.CRC and zlib.crc32(buffer.numpy()) != info.CRC:
        raise ValueError("a checksum differs")
    return buffer


def _fill(buffer: Tensor, file: BinaryIO) -> None:
    """Read the bytes of `buffer` from `file`."""
    if file.readinto(buffer.numpy()) != buffer.numel():
        raise EOFError("the file ends early")
