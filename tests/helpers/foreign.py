"""State dicts of our models with the parameter names of other projects, as in their checkpoints."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from helpers.weights import mmdet_state

State = dict[str, Tensor]


def renamed(state: State, rules: list[tuple[str, str]]) -> State:
    """`state` with all `rules` applied to every name, in order."""
    new = {}
    for name, tensor in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        assert name not in new, name
        new[name] = tensor
    return new


def with_buffers(state: State, prefix: str) -> State:
    """`state` with the buffer that older Swins have beside each position table."""
    tables = [n for n in state if n.startswith(prefix) and n.endswith("relative_position_bias_table")]
    index = torch.zeros(4, 4, dtype=torch.int64)
    return state | {n.replace("bias_table", "index"): index for n in tables}


def idea(state: State, layers: int) -> State:
    """IDEA-Research/DINO: the shared head is listed for every layer of the decoder, under two names."""
    new = renamed(state, [(r"^backbone\.net\.", "backbone.0."), (r"^neck\.", "input_proj.")])
    for name in [n for n in new if re.match(r"transformer\.decoder\.(class|bbox)_embed\.", n)]:
        for i in range(layers):
            inner = name.replace("_embed.0.", f"_embed.{i}.")
            new[inner] = new[inner.removeprefix("transformer.decoder.")] = new[name]
    return with_buffers(new, "backbone.0.")


# mmcv's layers, which mmdetection 2.x and detrex use.
_LAYERS = [
    (r"(encoder\.layers\.\d+)\.self_attn\.", r"\1.attentions.0."),
    (r"(encoder\.layers\.\d+)\.norm2\.", r"\1.norms.1."),
    (r"(encoder\.layers\.\d+)\.norm1\.", r"\1.norms.0."),
    (r"(decoder\.layers\.\d+)\.self_attn\.", r"\1.attentions.0.attn."),
    (r"(decoder\.layers\.\d+)\.cross_attn\.", r"\1.attentions.1."),
    (r"(decoder\.layers\.\d+)\.norm2\.", r"\1.norms.0."),
    (r"(decoder\.layers\.\d+)\.norm1\.", r"\1.norms.1."),
    (r"(decoder\.layers\.\d+)\.norm3\.", r"\1.norms.2."),
    (r"(coder\.layers\.\d+)\.linear1\.", r"\1.ffns.0.layers.0.0."),
    (r"(coder\.layers\.\d+)\.linear2\.", r"\1.ffns.0.layers.1."),
]


def _neck(maps: int, norm: str) -> list[tuple[str, str]]:
    levels = [(i, f"convs.{i}" if i < maps else f"extra_convs.{i - maps}") for i in range(6)]
    return [
        (rf"^neck\.{i}\.{part}\.", f"neck.{level}.{name}.")
        for i, level in levels
        for part, name in enumerate(("conv", norm))
    ]


def _branches(layers: int, head: str) -> list[tuple[str, str]]:
    encoder = [
        (r"^transformer\.enc_out_class_embed", f"{head}.cls_branches.{layers}"),
        (r"^transformer\.enc_out_bbox_embed", f"{head}.reg_branches.{layers}"),
    ]
    decoder = [
        (r"^transformer\.decoder\.class_embed", f"{head}.cls_branches"),
        (r"^transformer\.decoder\.bbox_embed", f"{head}.reg_branches"),
    ]
    steps = [(rf"(reg_branches\.\d+)\.layers\.{i}\.", rf"\1.{2 * i}.") for i in range(3)]
    return encoder + decoder + steps


def detrex(state: State, layers: int, maps: int) -> State:
    """DINO of detrex: the encoder's head comes after the decoder's; no row for an unknown class."""
    heads = [
        (r"^transformer\.enc_out_(class|bbox)_embed", rf"transformer.decoder.\1_embed.{layers}"),
        (r"^transformer\.level_embed$", "transformer.level_embeds"),
        (r"^backbone\.net\.", "backbone."),
    ]
    new = renamed(state, heads + _LAYERS + _neck(maps, "norm"))
    for name in [n for n in new if re.match(r"transformer\.decoder\.(class|bbox)_embed\.", n)]:
        new[name.removeprefix("transformer.decoder.")] = new[name]
    new["label_enc.weight"] = new["label_enc.weight"][:-1]
    return with_buffers(new, "backbone.")


def sense_x(state: State, layers: int, maps: int) -> State:
    """Co-DINO of Sense-X/Co-DETR."""
    rules = [
        *_branches(layers, "query_head"),
        *_LAYERS,
        (r"^(transformer\.decoder\.ref_point_head)\.layers\.0\.", r"\1.0."),
        (r"^(transformer\.decoder\.ref_point_head)\.layers\.1\.", r"\1.2."),
        (r"^transformer\.level_embed$", "transformer.level_embeds"),
        (r"^transformer\.tgt_embed\.", "transformer.query_embed."),
        (r"^transformer\.", "query_head.transformer."),
        (r"^label_enc\.", "query_head.label_embedding."),
        (r"^downsample\.", "query_head.downsample."),
        *_neck(maps, "gn"),
        *_RPN,
        (r"^roi_heads\.box_head\.fc1\.", "roi_head.0.bbox_head.shared_fcs.0."),
        (r"^roi_heads\.box_head\.fc2\.", "roi_head.0.bbox_head.shared_fcs.1."),
        (r"^roi_heads\.box_predictor\.cls_score\.", "roi_head.0.bbox_head.fc_cls."),
        (r"^roi_heads\.box_predictor\.bbox_pred\.", "roi_head.0.bbox_head.fc_reg."),
        (r"^atss\.(cls|reg)_convs\.(\d)\.norm\.", r"bbox_head.0.\1_convs.\2.gn."),
        (r"^atss\.(cls|reg)_convs\.(\d)\.(weight)", r"bbox_head.0.\1_convs.\2.conv.\3"),
        (r"^atss\.cls_score\.", "bbox_head.0.atss_cls."),
        (r"^atss\.bbox_pred\.", "bbox_head.0.atss_reg."),
        (r"^atss\.centerness\.", "bbox_head.0.atss_centerness."),
        (r"^atss\.scales\.(\d)$", r"bbox_head.0.scales.\1.scale"),
        (r"^backbone\.net\.", "backbone."),
    ]
    named = with_buffers(renamed(state, rules), "backbone.")
    return {n: t.squeeze() if n.endswith(".scale") else t for n, t in named.items()}


def mmdet_dino(state: State, layers: int, maps: int) -> State:
    """DINO of mmdetection 3.x: no bias before a norm, no row for an unknown class, its own Swin."""
    rules = [
        *_branches(layers, "bbox_head"),
        *_neck(maps, "gn"),
        (r"^transformer\.(level_embed|encoder|decoder)", r"\1"),
        (r"(decoder\.layers\.\d+\.self_attn)\.", r"\1.attn."),
        *((rf"^(encoder\.layers\.\d+)\.norm{i + 1}\.", rf"\1.norms.{i}.") for i in range(2)),
        *((rf"^(decoder\.layers\.\d+)\.norm{i}\.", rf"\1.norms.{j}.") for j, i in enumerate((2, 1, 3))),
        (r"(coder\.layers\.\d+)\.linear1\.", r"\1.ffn.layers.0.0."),
        (r"(coder\.layers\.\d+)\.linear2\.", r"\1.ffn.layers.1."),
        (r"^transformer\.tgt_embed\.", "query_embedding."),
        (r"^transformer\.enc_output_norm\.", "memory_trans_norm."),
        (r"^transformer\.enc_output\.", "memory_trans_fc."),
        (r"^label_enc\.", "dn_query_generator.label_embedding."),
    ]
    new = renamed(mmdet_swin(state), rules)
    new["dn_query_generator.label_embedding.weight"] = new["dn_query_generator.label_embedding.weight"][:-1]
    return {n: t for n, t in new.items() if not (n.startswith("neck.") and n.endswith("conv.bias"))}


def mmdet_swin(state: State) -> State:
    """`state` with the trunk's names as in mmdetection's own Swin."""
    trunk = {n.removeprefix("backbone.net."): t for n, t in state.items() if n.startswith("backbone.net.")}
    rest = {n: t for n, t in state.items() if not n.startswith("backbone.net.")}
    return with_buffers(mmdet_state(trunk), "backbone.") | rest


_RPN = [
    (r"^proposal_generator\.rpn_head\.conv\.", "rpn_head.rpn_conv."),
    (r"^proposal_generator\.rpn_head\.objectness_logits\.", "rpn_head.rpn_cls."),
    (r"^proposal_generator\.rpn_head\.anchor_deltas\.", "rpn_head.rpn_reg."),
]


def mmdet_cascade(state: State) -> State:
    """Cascade Mask R-CNN of mmdetection, which has a mask head per stage; ours is the last one."""
    box = r"^roi_heads\.box_head\.(\d)\."
    rules = [
        *((rf"^backbone\.fpn_lateral{i + 2}\.", f"neck.lateral_convs.{i}.conv.") for i in range(4)),
        *((rf"^backbone\.fpn_output{i + 2}\.", f"neck.fpn_convs.{i}.conv.") for i in range(4)),
        *_RPN,
        *((box + rf"conv{i + 1}\.norm\.", rf"roi_head.bbox_head.\1.shared_convs.{i}.bn.") for i in range(4)),
        *((box + rf"conv{i + 1}\.", rf"roi_head.bbox_head.\1.shared_convs.{i}.conv.") for i in range(4)),
        (box + r"fc1\.", r"roi_head.bbox_head.\1.shared_fcs.0."),
        (r"^roi_heads\.box_predictor\.(\d)\.cls_score\.", r"roi_head.bbox_head.\1.fc_cls."),
        (r"^roi_heads\.box_predictor\.(\d)\.bbox_pred\.", r"roi_head.bbox_head.\1.fc_reg."),
        *((rf"^roi_heads\.mask_head\.mask_fcn{i + 1}\.", f"masks.convs.{i}.conv.") for i in range(4)),
        (r"^roi_heads\.mask_head\.deconv\.", "masks.upsample."),
        (r"^roi_heads\.mask_head\.predictor\.", "masks.conv_logits."),
        (r"^masks\.", "roi_head.mask_head.2."),
    ]
    new = renamed(mmdet_swin(state), rules)
    for name in [n for n in new if n.startswith("roi_head.mask_head.2.")]:
        for i in range(2):
            new[name.replace("mask_head.2", f"mask_head.{i}")] = torch.zeros_like(new[name])
    return new


def mmdet_retinanet(state: State) -> State:
    """RetinaNet of mmdetection: the outputs at a position are sorted by aspect ratio, then by size."""
    rules = [
        *((rf"^backbone\.fpn_lateral{i + 3}\.", f"neck.lateral_convs.{i}.conv.") for i in range(3)),
        *((rf"^backbone\.fpn_output{i + 3}\.", f"neck.fpn_convs.{i}.conv.") for i in range(3)),
        *((rf"^backbone\.top_block\.p{i + 3}\.", f"neck.fpn_convs.{i}.conv.") for i in (3, 4)),
        *((rf"^head\.cls_subnet\.{2 * i}\.", f"bbox_head.cls_convs.{i}.conv.") for i in range(4)),
        *((rf"^head\.bbox_subnet\.{2 * i}\.", f"bbox_head.reg_convs.{i}.conv.") for i in range(4)),
        (r"^head\.cls_score\.", "bbox_head.retina_cls."),
        (r"^head\.bbox_pred\.", "bbox_head.retina_reg."),
    ]
    new = renamed(mmdet_swin(state), rules)
    # The anchor of size s and ratio r is number 3 s + r in detectron2, 3 r + s in mmdetection.
    order = [3 * s + r for r in range(3) for s in range(3)]
    for name in [n for n in new if n.startswith("bbox_head.retina_")]:
        new[name] = torch.cat([new[name].chunk(9)[i] for i in order])
    return new
