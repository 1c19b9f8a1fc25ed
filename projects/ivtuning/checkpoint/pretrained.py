"""Pretrained weights: files of other projects and our own, matched strictly to a model, with a report.

A frozen trunk of which half is random trains without a complaint. So every base tensor must be in the file,
every key of the file must be known, and nothing is written before all of that is checked.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ..backbones.trunk import PLUGINS, Trunk, TrunkPlace, find_trunk
from ..errors import UserError
from ..hub.names import base_name
from ..utils.tensors import check_values, copy_into, named_tensors
from .files import read_state
from .report import LoadReport, brief, count, first, sizes
from .trunks.dino import dinov2_to_timm, dinov3_to_timm, is_dinov3
from .trunks.eva import is_eva, to_timm
from .trunks.resize import fit, is_table
from .trunks.swin import from_mmdet, is_output_norm, is_swin, to_official

# Keys of a trunk's file that a trunk may do without, by their first part: classifiers, MAE's decoder, SAM's
# neck, the norm before a classifier, the class token itself where the trunk has none.
_UNUSED = {"head", "head_dist", "fc_norm", "norm", "pre_logits", "mask_token", "neck", "cls_token"}
_RENAMED = {"lin1": "fc1", "lin2": "fc2"}  # SAM's MLP
# Parts of keys that belong to architectures which the trunks here do not have.
_FOREIGN = {
    **dict.fromkeys(("ls1", "ls2", "gamma_1", "gamma_2"), "LayerScale"),
    **dict.fromkeys(("q_norm", "k_norm"), "query-key normalization"),
    **dict.fromkeys(("reg_token", "register_tokens", "storage_tokens"), "register tokens"),
    **dict.fromkeys(("norm_pre", "ln_pre"), "a norm before the blocks"),
    "q_proj": "EVA-02's separate projections",
    **dict.fromkeys(("q_bias", "v_bias"), "BEiT's attention"),
    **dict.fromkeys(("w12", "fc1_g"), "a gated MLP"),
    **dict.fromkeys(("logit_scale", "cpb_mlp"), "Swin V2's attention"),
    "absolute_pos_embed": "an absolute position embedding",
    "dist_token": "a distillation token",
    "residual": "convolutions between the blocks",
}
_EMBED = "patch_embed.proj.weight"


def load_pretrained(
    model: nn.Module, path: str | os.PathLike, strict: bool = False, place: TrunkPlace | None = None
) -> LoadReport:
    """Fill `model` from the file at `path` (see :func:`ivtuning.checkpoint.files.read_state`).

    It reads plain ViT weights (MAE, timm), SAM's image encoder, EVA-02, DINOv2 and DINOv3 (their releases,
    timm), Swin weights (Microsoft, timm, mmdet), detectron2's ViTDet and Swin detectors, and our own files of
    a trunk or a whole model. All base tensors of the trunk must be in the file, with two exceptions: relative
    positions, which plain ViTs lack (they become zero), and the norms on a Swin's outputs, which ImageNet
    weights lack (they become the identity). Position embeddings and tables are resized.

    Stem, tuner, neck and heads are filled as far as the file has them; heads of another shape stay as
    initialized. A stem that the file did not fill starts from the base.

    Args:
        strict: demand that the whole model is filled, as evaluation needs it.
        place: the model's trunk, where the caller knows it.

    Raises:
        UserError: the file does not fit, or a merged LoRA is in the way; the model is then as it was.
    """
    return fill(model, place or find_trunk(model), read_state(path), path, strict)


def fill(
    model: nn.Module,
    place: TrunkPlace,
    state: dict[str, Tensor],
    path: str | os.PathLike,
    strict: bool = False,
) -> LoadReport:
    """:func:`load_pretrained` of a `state` that was read from `path` before."""
    model = getattr(model, "module", model)
    trunk, prefix = place.trunk, place.prefix
    report = LoadReport(str(path))
    trunk.tuner.check_loadable()
    try:
        inner, outer = _split(from_mmdet(state), prefix)
        report.source = _source(state, inner)
        plugins = {n: inner.pop(n) for n in list(inner) if n.split(".")[0] in PLUGINS}
        new = _base(trunk, inner, report) | _plugins(trunk, plugins)
        new = {prefix + n: t for n, t in new.items()} | _outside(model, prefix, outer, report)
        special = report.missing + report.identity + report.resized
        changed = {prefix + n.split(":")[0] for n in special}
        report.matched = [n for n in new if n not in changed]
        report.fresh = [n for n in named_tensors(model) if n not in new]
        check_values(new, model.state_dict())
        if strict:
            _demand_all(report, any(n in outer for n in new))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    copy_into(model, new)
    if not any(n.startswith("stem.") for n in plugins):
        trunk.stem.base_loaded(trunk.patch_embed)
    trunk.base_file = base_name(path)
    return report


def _split(state: dict[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of the file's trunk, by their names in that trunk, and all others.

    What stands before the model's own names is taken off the others, such as Lightning's "model.".
    """
    places = [n.removesuffix(_EMBED) for n in state if n == _EMBED or n.endswith(f".{_EMBED}")]
    if not places:
        start = ", ".join(list(state)[:3])
        if start.startswith(("backbone/", "task/")):
            raise UserError("is an adapter: give it as the adapter (--adapter), and its base as the weights")
        raise UserError(f"no vision transformer in it: no key {_EMBED}, the first keys are {start}")
    # Before the names of one that trains there is nothing, or "model."; teachers and averages have others.
    live = [p for p in (prefix, f"model.{prefix}", f"module.{prefix}") if p in places]
    if len(places) > 1 and not live:
        raise UserError(
            f"holds several trunks, at {', '.join(map(repr, places))}: name one by what its names begin "
            f"with, as in FILE#{places[0].removesuffix(prefix).strip('.')}"
        )
    at = (live or places)[0]
    before = at.removesuffix(prefix) if at.endswith(prefix) else ""
    inner = {n.removeprefix(at): t for n, t in state.items() if n.startswith(at)}
    return inner, {n.removeprefix(before): t for n, t in state.items() if not n.startswith(at)}


def _source(state: Mapping[str, Tensor], inner: Mapping[str, Tensor]) -> str:
    """What kind of trunk the file with the tensors `state` holds, whose trunk is `inner`, for the log."""
    if is_swin(inner):
        return "Swin of mmdetection" if any(".attn.w_msa." in n for n in state) else "Swin"
    if is_eva(inner) or any(n.endswith(".attn.q_bias") for n in inner):
        return "EVA-02"
    if is_dinov3(inner):
        return "DINOv3"
    return "ViT of SAM" if any(".mlp.lin1." in n for n in inner) else "ViT"


def _base(trunk: Trunk, file: dict[str, Tensor], report: LoadReport) -> dict[str, Tensor]:
    """New values of the base. Keys of `file` with other projects' names are renamed in place."""
    own = {n: t for n, t in trunk.state_dict().items() if n.split(".")[0] not in PLUGINS}
    for name in list(file):
        file[".".join(_RENAMED.get(part, part) for part in name.split("."))] = file.pop(name)
    if is_swin(own):
        report.ignored += to_official(file)
    elif is_eva(own) and is_eva(file):
        report.ignored += to_timm(file)
    elif is_dinov3(own) and is_dinov3(file):
        report.ignored += dinov3_to_timm(file)
    elif any(n.endswith(".ls1.gamma") for n in own):
        dinov2_to_timm(file)
    _diagnose(type(trunk).__name__, own, file)
    unknown = [n for n in file if n not in own and not _unused(n)]
    has_tables = any(map(is_table, file))
    absent = [n for n in own if n not in file]
    report.missing = [n for n in absent if is_table(n) and not has_tables]
    # A norm is in the file whole or not at all.
    norms = {n.partition(".")[0] for n in file if is_output_norm(n)}
    report.identity = [n for n in absent if is_output_norm(n) and n.partition(".")[0] not in norms]
    absent = [n for n in absent if n not in report.missing + report.identity]
    if unknown or absent:
        what = []
        if absent:
            what.append(f"lacks {count(absent, 'tensor')} of the trunk ({first(absent)})")
        if unknown:
            what.append(f"has {count(unknown, 'key')} unknown to the trunk ({first(unknown)})")
        hint = "take weights of this architecture"
        if any(map(is_table, unknown)):
            hint = "it has relative positions, which ViTDet with use_rel_pos=True takes"
        elif "cls_token" in absent:
            hint = "set class_token=False"
        elif "reg_token" in absent:
            hint = "set reg_tokens=0"
        elif "norm.weight" in absent:
            hint = "set final_norm=False"
        raise UserError(f"{' and '.join(what)}: {hint}")
    new = {n: torch.zeros_like(own[n]) for n in report.missing}
    for name in report.identity:
        new[name] = torch.full_like(own[name], float(name.endswith("weight")))
    wrong = []
    for name in (n for n in own if n in file):
        new[name], how = fit(name, file[name], own[name])
        if new[name].shape != own[name].shape:
            wrong.append(f"{name}: {sizes(file[name])} in the file, {sizes(own[name])} in the trunk")
        elif how:
            report.resized.append(f"{name}: {how}")
    if wrong:
        raise UserError(f"{count(wrong, 'tensor')} of another shape than the trunk's: {first(wrong, '; ')}")
    report.ignored += [n for n in file if n not in own]
    return new


def _plugins(trunk: Trunk, file: dict[str, Tensor]) -> dict[str, Tensor]:
    """New values of stem and tuner. The file has either all of one or nothing."""
    own = trunk.state_dict()
    for plugin in PLUGINS:
        theirs = {n: t.shape for n, t in file.items() if n.split(".")[0] == plugin}
        ours = {n: t.shape for n, t in own.items() if n.split(".")[0] == plugin}
        if theirs and theirs != ours:
            odd = sorted(n for n in theirs.keys() | ours.keys() if theirs.get(n) != ours.get(n))
            kind = type(getattr(trunk, plugin)).__name__
            raise UserError(
                f"its {plugin} is not the model's {kind} (other tensors: {len(odd)}, {first(odd)}): build "
                f"the model with the {plugin} of the file, or give a file without one"
            )
    return dict(file)


def _outside(model: nn.Module, prefix: str, file: dict[str, Tensor], report: LoadReport) -> dict[str, Tensor]:
    """New values of neck and heads. A layer of which any tensor has another shape is left out whole."""
    own = {n: t for n, t in model.state_dict().items() if not n.startswith(prefix)}
    odd = [n for n in own if n in file and own[n].shape != file[n].shape]
    layers = {n.rpartition(".")[0] for n in odd}
    report.reshaped = [f"{n}: {sizes(file[n])} in the file, {sizes(own[n])} in the model" for n in odd]
    report.ignored += [n for n in file if n not in own]
    return {n: t for n, t in file.items() if n in own and n.rpartition(".")[0] not in layers}


def _demand_all(report: LoadReport, has_heads: bool) -> None:
    """Raise UserError where the file leaves a part of the model unfilled."""
    empty = report.fresh + report.missing + report.identity
    if not empty:
        return
    if report.reshaped:
        raise UserError(f"made for another model or set of classes: {first(report.reshaped, '; ')}")
    if not has_heads:
        raise UserError(
            f"holds only a trunk: {brief(empty)} would be random; give a checkpoint of the whole model, or "
            "its adapter as well (--adapter)"
        )
    raise UserError(
        f"leaves {count(empty, 'tensor')} of the model unfilled: {first(empty)}: give the checkpoint of this "
        "config's model"
    )


def _diagnose(kind: str, own: dict[str, Tensor], file: dict[str, Tensor]) -> None:
    """Name the one reason behind a mismatch of many keys, where there is one; `kind` is the trunk's."""
    if is_swin(file) and not is_swin(own):
        raise UserError(f"is a Swin checkpoint, the trunk is {kind} (first keys {first(list(file))})")
    for family, belongs in (("Swin", is_swin), ("EVA-02", is_eva), ("DINOv3", is_dinov3)):
        if belongs(own) and not belongs(file):
            keys = first(list(file))
            raise UserError(f"is no {family} checkpoint, the trunk is {kind} (first keys {keys})")
    for name in file:
        for part in name.split("."):
            if part in _FOREIGN and name not in own and not _unused(name):
                raise UserError(f"has {_FOREIGN[part]} ({name}), which {kind} lacks: take weights without")
    theirs, ours = _depths(file), _depths(own)
    if theirs != ours:
        option = f"depths={theirs}" if is_swin(own) else f"depth={sum(theirs)}"
        counts = ["-".join(map(str, depths)) or "no" for depths in (theirs, ours)]
        raise UserError(f"has {counts[0]} blocks, the trunk {counts[1]}: set {option} or take others")
    theirs, ours = file[_EMBED].shape, own[_EMBED].shape
    if len(theirs) != 4:
        raise UserError(f"has a {_EMBED} of shape {sizes(file[_EMBED])}, the trunk {sizes(own[_EMBED])}")
    if theirs[2:] != ours[2:]:
        raise UserError(f"has patches of {theirs[2]} px, the trunk of {ours[2]}: they are not resized")
    if theirs[0] != ours[0]:
        raise UserError(f"is {theirs[0]} wide, the trunk {ours[0]}: set embed_dim={theirs[0]} or take others")


def _depths(names: Iterable[str]) -> list[int]:
    """Blocks of every stage; a plain ViT is one stage."""
    depths: dict[int, int] = defaultdict(int)
    for match in filter(None, (re.match(r"(?:layers\.(\d+)\.)?blocks\.(\d+)\.", n) for n in names)):
        stage = int(match[1] or 0)
        depths[stage] = max(depths[stage], int(match[2]) + 1)
    return [depths[stage] for stage in sorted(depths)]


def _unused(name: str) -> bool:
    """Whether a trunk can do without the key `name` of a trunk's file."""
    part = name.split(".")[0]
    return part in _UNUSED or part.startswith("decoder") or is_output_norm(name)
