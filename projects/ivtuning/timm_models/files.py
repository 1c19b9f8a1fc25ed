"""Adapter files of timm models: safetensors, with what they belong to in the header."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..errors import UserError
from ..hub.names import local_path
from ..utils.files import atomic_write
from ..utils.tensors import check_values

FORMAT = 1
KEY = "ivtuning_timm"  # in the header of a safetensors file


def write_adapter(path: str | os.PathLike, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write `tensors` and the `facts` about them; see :meth:`.tuned.TunedModel.save`."""
    from safetensors.torch import save

    if Path(path).suffix != ".safetensors":
        raise UserError(f"{path}: the name of an adapter file ends in .safetensors")
    header = {"format": FORMAT, "version": __version__, **facts}
    held = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
    with atomic_write(path) as temp:
        temp.write_bytes(save(held, {KEY: json.dumps(header)}))


def read_adapter(path: str | os.PathLike, own: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Copy a file's tensors into those of `own`, if its facts are `facts`; see :meth:`.TunedModel.load`."""
    from safetensors import SafetensorError, safe_open

    place = local_path(path)
    try:
        with safe_open(place, "pt") as file:
            header = json.loads((file.metadata() or {}).get(KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path}: truncated, damaged or no safetensors file: save it again") from error
    if not isinstance(header, dict):
        raise UserError(f"{path}: not written by save() of an attached timm model: give another file")
    for key, ours in ({"format": FORMAT} | dict(facts)).items():
        # Files of the first versions do not state the options.
        if header.get(key, ours if key == "options" else None) != ours:
            raise UserError(
                f"{path}: made with {key} {header.get(key)!r}, this model has {ours!r}: create and attach it "
                "in the same way"
            )
    odd = [n for n in own.keys() | tensors.keys() if _shape(own, n) != _shape(tensors, n)]
    if odd:
        name = min(odd)
        raise UserError(
            f"{path}: {len(odd)} tensors do not fit ({name}: file {_shape(tensors, name)}, model "
            f"{_shape(own, name)}): attach with the options it was trained with"
        )
    try:
        check_values(tensors, own)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def _shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None
