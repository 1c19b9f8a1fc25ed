"""The header of an adapter file: which base, stem and tuner its tensors belong to."""

from __future__ import annotations

import json
import os
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import UserError
from ..hub.names import local_path
from ..utils.schema import first_fault
from .formats import is_safetensors, other_kind
from .report import first

FORMAT = 1
Group = Literal["backbone", "task"]
_Name = Annotated[str, Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class Plugin(_Strict):
    """A stem or a tuner: its class, its options where a config was given, and a tuner's revision."""

    name: _Name
    revision: int = 1
    options: dict[str, Any] = {}


class Versions(_Strict):
    """What wrote the file."""

    ivtuning: _Name


class Header(_Strict):
    """The header; see :func:`ivtuning.checkpoint.adapter.save_adapter`."""

    format: Annotated[int, Field(ge=1)]
    stem: Plugin
    tuner: Plugin
    trunk: _Name
    widths: list[Annotated[int, Field(ge=1)]]
    groups: Annotated[list[Group], Field(min_length=1)]
    dtype: str | None = None
    fingerprint: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    base_weights: str | None
    versions: Versions
    metadata: dict[str, Any]


def read_adapter(path: str | os.PathLike, tensors: bool = True) -> tuple[dict, dict[str, Tensor]]:
    """The header of the adapter file at `path`, and its tensors by their names in the file.

    Args:
        tensors: read them; False leaves them out.

    Raises:
        UserError: no such file, a damaged file, or no adapter.
    """
    file = local_path(path)
    try:
        with open(file, "rb") as f:
            head = f.read(4096)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    if head and not is_safetensors(head):
        what = other_kind(file, head) or "no safetensors file"
        hint = ": give full weights as --weights" if head.startswith((b"PK", b"\x80")) else ""
        raise UserError(f"{path}: not an adapter file but {what}{hint}")
    try:
        with safe_open(file, "pt") as f:
            facts = (f.metadata() or {}).get("ivtuning")
            names = list(f.keys())
            read = {name: f.get_tensor(name) for name in names} if facts and tensors else {}
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{path}: truncated, damaged or no safetensors file: export it again") from error
    if facts is None:
        raise UserError(f"{path}: not an adapter file: give full weights as --weights")
    header = _parsed(path, facts)
    groups = header["groups"]
    for name in names:
        if name.partition("/")[0] not in groups:
            raise UserError(
                f"{path}: the tensor {first([name])} is in none of its groups ({first(groups)}): "
                "export it again"
            )
    return header, read


def _parsed(path: str | os.PathLike, text: str) -> dict:
    """The header in `text`, JSON, of the file at `path`."""
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: its header is not valid JSON ({error}): export it again") from error
    if not isinstance(facts, dict):
        kind = type(facts).__name__
        raise UserError(f"{path}: its header is a {kind}, not an object with keys: export it again")
    if type(facts.get("format")) is int and facts["format"] > FORMAT:
        writer = facts.get("versions")
        writer = writer.get("ivtuning", "?") if isinstance(writer, dict) else "?"
        raise UserError(f"{path}: written by a newer ivtuning ({writer}): update this one")
    try:
        Header.model_validate(facts)
    except ValidationError as error:
        raise UserError(f"{path}: its header has {first_fault(error)}: export it again") from error
    return facts


def adapter_classes(adapter: str | os.PathLike | None) -> list[str]:
    """The names of the classes that an adapter file states, by class id; none where it states none."""
    stored = read_adapter(adapter, tensors=False)[0]["metadata"].get("classes") if adapter else None
    return [str(name) for name in stored] if isinstance(stored, list) else []
