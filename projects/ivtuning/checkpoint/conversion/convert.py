"""Conversion of a checkpoint: rename its tensors, keep those that fit the model of a config, write them."""

from __future__ import annotations

import copy
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import Tensor, nn

from ...backbones.trunk import PLUGINS, find_trunk
from ...errors import UserError
from ...hub.names import check_output
from ...utils.files import atomic_write
from ..files import read_state
from ..nesting import without_common_part
from ..pretrained import fill
from ..report import count, first, sizes
from ..trunks.swin import from_mmdet, is_swin, to_official
from .family import Family, Rules, State, same
from .report import ConversionReport

_SUFFIXES = (".safetensors", ".pth")
_LABELS, _CLASS_HEAD = "label_enc.weight", "transformer.decoder.class_embed.0.bias"
_DELTAS = r"roi_heads\.box_predictor\.(\d+\.)?bbox_pred\.(weight|bias)"


def convert_file(
    source: str | os.PathLike,
    target: str | os.PathLike,
    family: Family,
    known: Mapping[str, Family],
    model: nn.Module,
    classes: set[str],
) -> ConversionReport:
    """Convert the checkpoint at `source` and write it to `target`, .safetensors or .pth, whole or not at all.

    Args:
        family, known, model, classes: see :func:`convert`.

    Raises:
        UserError: `target` ends otherwise or is `source`; see also
            :func:`ivtuning.checkpoint.files.read_state` and :func:`convert`.
    """
    target = Path(target)
    if target.suffix not in _SUFFIXES:
        raise UserError(f"{target}: the name of the file to write ends in {' or '.join(_SUFFIXES)}")
    check_output(target, source)
    new, report = convert(read_state(source), family, known, model, classes, str(source))
    with atomic_write(target) as temp:
        if target.suffix == ".safetensors":
            from safetensors.torch import save_file

            made = {"format": "pt", "converted_from": family.name, "source": PurePath(str(source)).name}
            save_file({n: t.contiguous() for n, t in new.items()}, temp, made)
        else:
            with open(temp, "wb") as f:
                torch.save({"model": new}, f)
    return report


def read_converted(
    source: str, family: Family, known: Mapping[str, Family], cfg_model: Any
) -> tuple[State, ConversionReport]:
    """What :func:`convert` makes of the file `source` for the model of a LazyConfig's node."""
    from detectron2.config import instantiate

    with torch.device("meta"):
        model = instantiate(cfg_model)
    return convert(read_state(source), family, known, model, class_tensors(cfg_model, model), source)


def convert(
    state: State,
    family: Family,
    known: Mapping[str, Family],
    model: nn.Module,
    classes: set[str],
    source: str = "the file",
) -> tuple[State, ConversionReport]:
    """Bring a checkpoint to the names of `model` and keep what fits.

    The trunk must fit whole. Outside of it a layer is taken whole or left out.

    Args:
        state: the checkpoint's tensors by name.
        family: whose names these should be, out of the `known` ones.
        model: of the config, on the meta device.
        classes: names of its tensors that depend on the number of classes, see :func:`class_tensors`.
        source: what messages call the file.

    Raises:
        UserError: not a file of this family, another trunk than the model's, or a detector of another kind.
    """
    report, own, names = ConversionReport(source), model.state_dict(), list(state)
    place = find_trunk(model)
    prefix = place.prefix
    state = from_mmdet(state)
    unwrapped: State | None = state
    while unwrapped is not None and not family.claims(unwrapped):
        unwrapped = without_common_part(unwrapped)
    if unwrapped is None:
        raise UserError(f"{source}: {_whose(state, family, known, own)}")
    state = unwrapped
    try:
        state, theirs = _rename(state, family.rules(state), names)
        report.notes += family.adapt(state, own)
        _fit_labels(state, own, report)
        _repeat_deltas(state, own, report)
    except (RuntimeError, IndexError, TypeError) as error:  # what torch says of shapes and types
        raise UserError(
            f"{source}: its tensors have other shapes or types than those of {family.what}: fetch or write "
            "the file again"
        ) from error

    unused = []
    inner = {n.removeprefix(prefix): state.pop(n) for n in list(state) if n.startswith(prefix)}
    if is_swin(place.trunk.state_dict()):
        unused = [prefix + n for n in to_official(inner)]
    outside = {n: t for n, t in own.items() if not n.startswith(prefix)}
    new = _match(state, outside, classes, report)
    unused += state
    needed = outside.keys() - classes
    filled = len(needed & new.keys())
    if 2 * filled < len(needed):
        raise UserError(
            f"{source}: fits {filled} of the {len(needed)} tensors that the model has outside of its trunk: "
            f"take a config of the file's detector (it has {first([theirs[n] for n in state])})"
        )
    new.update({prefix + n: t for n, t in inner.items()})
    loaded = fill(model, place, dict(new), source)

    report.unused = [theirs.get(n, n) for n in unused + [prefix + n for n in loaded.ignored]]
    resized = count(loaded.resized, "tensor")
    report.notes += [f"resized on loading: {resized}"] if loaded.resized else []
    new = {n: t for n, t in new.items() if n in own}
    report.taken = [n for n in new if n not in report.zero]
    report.renamed = len(set(report.taken).difference(names))
    listed = {line.partition(":")[0] for line in report.class_layers + report.misfits}
    for name in [n for n in own if n not in new and n not in listed]:
        is_plugin = name.startswith(prefix) and name.removeprefix(prefix).split(".")[0] in PLUGINS
        (report.plugins if is_plugin else report.missing).append(name)
    return new, report


def class_tensors(cfg_model: Any, model: nn.Module) -> set[str]:
    """Names of the tensors of `model`, built from a LazyConfig's node, that depend on the number of classes.

    The model is built once more, on the meta device, with one class more.
    """
    from detectron2.config import instantiate

    larger = copy.deepcopy(cfg_model)
    for node in list(_groups(larger)):
        if isinstance(node.get("num_classes"), int):
            node.num_classes += 1
    with torch.device("meta"):
        shapes = {n: t.shape for n, t in instantiate(larger).state_dict().items()}
    return {n for n, t in model.state_dict().items() if shapes[n] != t.shape}


def _groups(node: Any) -> Iterator[Any]:
    """The groups of a config that set a num_classes of their own instead of referring to another's."""
    from omegaconf import DictConfig, ListConfig, OmegaConf

    keys = node.keys() if isinstance(node, DictConfig) else range(len(node))
    own = [k for k in keys if not OmegaConf.is_interpolation(node, k) and not OmegaConf.is_missing(node, k)]
    if "num_classes" in own:
        yield node
    for key in own:
        if isinstance(node[key], (DictConfig, ListConfig)):
            yield from _groups(node[key])


def _rename(state: Mapping[str, Tensor], rules: Rules, names: Iterable[str]) -> tuple[State, dict[str, str]]:
    """`state` under the names that `rules` make, and which of the file's `names` each one was.

    A file may hold one tensor under several names. A tensor whose new name another one has already keeps its
    own.
    """
    new, theirs = {}, {}
    for (name, tensor), old in zip(state.items(), names, strict=True):
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        if not same(new.setdefault(name, tensor), tensor):
            new[name := old] = tensor
        theirs.setdefault(name, old)
    return new, theirs


def _fit_labels(state: State, own: Mapping[str, Tensor], report: ConversionReport) -> None:
    """Add or remove the row after the last class, which nothing uses, in DINO's embedding of classes."""
    if _LABELS not in state or _LABELS not in own:
        return
    theirs, ours = (len(s[_CLASS_HEAD]) if _CLASS_HEAD in s else None for s in (state, own))
    if theirs == ours:
        rows = state[_LABELS]
        state[_LABELS] = torch.cat([rows, torch.zeros_like(rows[:1])])[: len(own[_LABELS])]
    else:
        # The same number of rows may be of one class more.
        del state[_LABELS]
        report.class_layers.append(f"{_LABELS}: {theirs} classes in the file, {ours} in the model")


def _repeat_deltas(state: State, own: Mapping[str, Tensor], report: ConversionReport) -> None:
    """Repeat a box regression that all classes share, for a model with one for each: equal boxes."""
    for name in [n for n in state if re.fullmatch(_DELTAS, n) and n in own]:
        if len(state[name]) == 4 < len(own[name]):
            copies = len(own[name]) // 4
            state[name] = state[name].repeat(copies, *[1] * (state[name].ndim - 1))
            note = "classes share their box regression in the file: repeated for each class"
            report.notes += [] if note in report.notes else [note]


def _match(state: State, own: Mapping[str, Tensor], classes: set[str], report: ConversionReport) -> State:
    """Move the layers that fit out of `state` and return them; misfits leave `state` too, for the report."""
    ours, theirs = (defaultdict(list), defaultdict(list))
    for layers, names in ((ours, own), (theirs, state)):
        for name in names:
            layers[name.rpartition(".")[0]].append(name)
    new: State = {}
    for layer, names in ours.items():
        present = [n for n in names if n in state]
        if not present:
            continue
        absent = [n for n in names if n not in state and not n.endswith("num_batches_tracked")]
        # Without a bias a layer has the bias 0, unless a norm has taken it in.
        zero = [n for n in absent if n.endswith(".bias") and f"{layer}.norm.weight" not in state]
        wrong = [n for n in present if state[n].shape != own[n].shape]
        statistics = [n for n in theirs[layer] if n not in own and ".running_" in n]
        if wrong or statistics or absent != zero:
            lines = report.class_layers if classes & set(wrong) else report.misfits
            lines += [f"{n}: {sizes(state[n])} in the file, {sizes(own[n])} in the model" for n in present]
            lines += [f"{n}: in the file alone" for n in statistics]
            lines += [f"{n}: in the model alone" for n in absent]
        else:
            new |= {n: state[n].clone() for n in present} | {n: _zeros(own[n]) for n in zero}
            report.zero += zero
        for name in present:
            del state[name]
    return new


def _zeros(tensor: Tensor) -> Tensor:
    return torch.zeros(tensor.shape, dtype=tensor.dtype)


def _whose(
    state: Mapping[str, Tensor], family: Family, known: Mapping[str, Family], own: Mapping[str, Tensor]
) -> str:
    """Why `family` does not claim `state`, and which family does, for a message."""
    what = f"is no checkpoint of {family.what}"
    others = [other for other in known.values() if other.claims(state)]
    if others:
        return f"{what}: give --from {others[0].name} ({others[0].what})"
    hits = {
        other: len(own.keys() & _rename(state, other.rules(state), state)[0].keys())
        for other in known.values()
    }
    best = max(hits, key=hits.__getitem__)
    start = f"its first names are {first(list(state))}"
    if not hits[best]:
        return f"{what}, nor of any known kind: {start}"
    if best is family:
        return f"{what} on a backbone that is known here: {start}"
    return f"{what}: nearest is --from {best.name} ({best.what}), whose backbone it lacks; {start}"
