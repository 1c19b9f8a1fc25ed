"""Adapter files: what was trained on a frozen base, and nothing of the base.

An adapter is one safetensors file with two groups of tensors: "backbone/<name in the trunk>" (stem, tuner,
and base parameters that trained) and "task/<name in the model>" (neck and heads). JSON in its header says
which base, stem and tuner it belongs to.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import detectron2
import torch
from safetensors.torch import save
from torch import Tensor, nn

from .. import __version__
from ..backbones.trunk import PLUGINS, Trunk, TrunkPlace, find_trunk
from ..errors import UserError, nearest
from ..tuning import TUNERS
from ..tuning.stems import STEMS
from ..utils.files import atomic_write
from ..utils.tensors import check_values, copy_into, digest_of, named_tensors
from .header import FORMAT, read_adapter
from .report import count, first, sizes

if TYPE_CHECKING:
    from omegaconf import DictConfig

GROUPS = ("backbone", "task")


def trained_tensors(trunk: Trunk) -> dict[str, Tensor]:
    """The trunk's trained state: tensors by their names in the trunk.

    These are all of stem and tuner, every base parameter that trains, and the buffers of base modules that
    hold such a parameter.
    """
    return _split_trunk(trunk)[0]


def adapter_tensors(model: nn.Module, place: TrunkPlace | None = None) -> dict[str, dict[str, Tensor]]:
    """The model's tensors that an adapter file holds, by group; they share memory with the model's."""
    return _split_model(model, place or find_trunk(model))[0]


def fingerprint(trunk: Trunk) -> str:
    """The digest of the trunk's frozen base; see :func:`..utils.tensors.digest_of`."""
    return digest_of(_split_trunk(trunk)[1])


def _split_trunk(trunk: Trunk) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of :func:`trained_tensors`, and the trunk's frozen base."""
    selected = {id(p) for p in trunk.tuner.select(trunk)}

    def trains(parameter: nn.Parameter) -> bool:
        return parameter.requires_grad or id(parameter) in selected

    def belongs(name: str, tensor: Tensor) -> bool:
        if name.split(".")[0] in PLUGINS:
            return True
        if isinstance(tensor, nn.Parameter):
            return trains(tensor)
        owner = trunk.get_submodule(name.rpartition(".")[0])
        return any(trains(p) for p in owner.parameters(recurse=False))

    trained, frozen = {}, {}
    for name, tensor in named_tensors(trunk).items():
        (trained if belongs(name, tensor) else frozen)[name] = tensor
    return trained, frozen


def _split_model(
    model: nn.Module, place: TrunkPlace
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """The tensors of :func:`adapter_tensors`, and the trunk's frozen base, in one walk, which is slow."""
    model = getattr(model, "module", model)
    trained, frozen = _split_trunk(place.trunk)
    outside = named_tensors(model).items() if place.name else ()
    task = {n: t for n, t in outside if not n.startswith(place.prefix)}
    return {"backbone": trained, "task": task}, frozen


def save_adapter(
    model: nn.Module,
    path: str | os.PathLike,
    groups: Sequence[str] = GROUPS,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, Any] | None = None,
    config: DictConfig | None = None,
) -> dict:
    """Write the trained state of `model` to the safetensors file `path`, whole or not at all.

    Of several processes only one may call it.

    Args:
        groups: which of "backbone" and "task" to write.
        dtype: of the parameters in the file, such as torch.bfloat16; None keeps theirs. Buffers keep theirs.
        metadata: further facts (dataset, split, metric); "base_weights" names the base's file, by default
            the one that was last read into the trunk.
        config: the run's config, to note the options of tuner and stem.

    Returns:
        The metadata written.

    Raises:
        UserError: an unknown group, a name that does not end in .safetensors, or a place that refuses files.
    """
    unknown = [g for g in groups if g not in GROUPS]
    if unknown or not groups:
        raise UserError(f"groups={list(groups)}: an adapter has the groups {' and '.join(GROUPS)}")
    if Path(path).suffix != ".safetensors":
        raise UserError(f"{path}: the name of an adapter file ends in .safetensors")
    place = find_trunk(model)
    trunk = place.trunk
    members_of, frozen = _split_model(model, place)
    tensors = {}
    for group, members in members_of.items():
        if group in groups:
            for name, tensor in members.items():
                cast = dtype if isinstance(tensor, nn.Parameter) else None
                tensors[f"{group}/{name}"] = tensor.detach().to("cpu", cast).contiguous()
    user = dict(metadata or {})
    base = user.pop("base_weights", None) or getattr(trunk, "base_file", None)
    versions = {"ivtuning": __version__, "torch": torch.__version__, "detectron2": detectron2.__version__}
    header = {
        "format": FORMAT,
        **{plugin: _describe(trunk, plugin, config) for plugin in PLUGINS},
        "trunk": type(trunk).__name__,
        "widths": [block.norm1.weight.numel() for block in trunk.tuner.served(trunk)],
        "groups": [g for g in GROUPS if g in groups],
        "dtype": str(dtype).removeprefix("torch.") if dtype else None,
        "fingerprint": digest_of(frozen),
        "base_weights": base,
        "versions": versions,
        "metadata": user,
    }
    data = save(tensors, {"ivtuning": json.dumps(header, default=str)})
    with atomic_write(path) as temp, open(temp, "wb") as f:
        f.write(data)
    return header


def load_adapter(
    model: nn.Module, path: str | os.PathLike, merged: bool = False, place: TrunkPlace | None = None
) -> dict:
    """Load the adapter at `path` into `model`, whose base must be the one it was trained on.

    Args:
        merged: the base has this adapter merged into it, which changes its fingerprint; the model is then as
            after :meth:`.Trunk.merge_adapters`.
        place: the model's trunk, where the caller knows it.

    Returns:
        The file's metadata.

    Raises:
        UserError: not an adapter, another base, stem or tuner, missing keys or other shapes, or `merged` of a
            method that cannot be; the model is then as it was.
    """
    model = getattr(model, "module", model)
    place = place or find_trunk(model)
    trunk = place.trunk
    header, tensors = read_adapter(path)
    for plugin in PLUGINS:
        known = {"stem": list(STEMS), "tuner": list(TUNERS)}[plugin]
        theirs, ours = header[plugin]["name"], type(getattr(trunk, plugin)).__name__
        if theirs != ours:
            if theirs not in known:
                raise UserError(
                    f"{path}: made by {plugin} {theirs}, which is unknown here{nearest(theirs, known)}: "
                    "update ivtuning, or import the module that defines it"
                )
            raise UserError(
                f"{path}: made by {plugin} {theirs}, not {ours}: set model.backbone.net.{plugin}={theirs}"
            )
    revision = header["tuner"].get("revision", 1)
    if revision != trunk.tuner.revision:
        raise UserError(
            f"{path}: made by revision {revision} of {header['tuner']['name']}, which computes something "
            f"else than this one, revision {trunk.tuner.revision}, with the same tensors: train it again"
        )
    for plugin in PLUGINS:
        ours = getattr(trunk, plugin).meaning()
        for key, value in header[plugin].get("meaning", {}).items():
            if key in ours and ours[key] != value:
                raise UserError(
                    f"{path}: made with {plugin}.{key}={value}, and this {plugin} has {ours[key]}: set "
                    f"model.backbone.net.{plugin}.{key}={value}"
                )
    own, frozen = _split_model(model, place)
    theirs, ours = header["fingerprint"], digest_of(frozen)
    if theirs != ours and not merged:
        needed = header["base_weights"] or "file unknown"
        present = getattr(trunk, "base_file", None) or "no file read"
        raise UserError(
            f"{path}: trained on base {theirs[:12]} ({needed}), the model has {ours[:12]} ({present}): "
            "load that base, into a trunk of the same depth, width and img_size"
        )
    own = {f"{group}/{name}": t for group in header["groups"] for name, t in own[group].items()}
    _check_tensors(path, tensors, own)
    try:
        check_values(tensors, own)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if merged:
        trunk.tuner.mark_merged()
    prefixes = {"backbone": place.prefix, "task": ""}
    keys = ((key.split("/", 1), tensor) for key, tensor in tensors.items())
    copy_into(model, {prefixes[group] + name: tensor for (group, name), tensor in keys})
    return header


def read_metadata(path: str | os.PathLike) -> dict:
    """The metadata of the adapter file `path`; see :func:`save_adapter`."""
    return read_adapter(path, tensors=False)[0]


def group_sizes(path: str | os.PathLike) -> dict[str, int]:
    """Bytes of the tensors in each group of the adapter file `path`, for the groups that it has."""
    header, tensors = read_adapter(path)
    total = dict.fromkeys(header["groups"], 0)
    for name, tensor in tensors.items():
        total[name.split("/")[0]] += tensor.nbytes
    return total


def _check_tensors(path: str | os.PathLike, file: dict[str, Tensor], model: dict[str, Tensor]) -> None:
    """Raise UserError where names or shapes in the file differ from the model's."""
    theirs = {n: sizes(t) for n, t in file.items()}
    ours = {n: sizes(t) for n, t in model.items()}
    odd = [n for n in [*ours, *sorted(theirs.keys() - ours.keys())] if theirs.get(n) != ours.get(n)]
    if odd:
        some = first([f"{n}: file {theirs.get(n, 'none')}, model {ours.get(n, 'none')}" for n in odd], "; ")
        raise UserError(
            f"{path}: of another model than this config's, {count(odd, 'tensor')} differing ({some}): build "
            "the model with the config of the adapter"
        )


def _describe(trunk: Trunk, plugin: str, config: DictConfig | None) -> dict:
    """The plugin's class, what its options mean and, where there is a config, the options themselves."""
    module = getattr(trunk, plugin)
    described: dict = {"name": type(module).__name__}
    if meaning := module.meaning():
        described["meaning"] = meaning
    if plugin == "tuner":
        described["revision"] = trunk.tuner.revision
    if config is not None:
        from omegaconf import OmegaConf

        node = OmegaConf.select(config, f"model.backbone.net.{plugin}")
        if node is not None:
            options = OmegaConf.to_container(node, resolve=True)
            described["options"] = {k: v for k, v in options.items() if k != "_target_"}
    return described
