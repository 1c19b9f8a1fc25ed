"""torchvision's detectors on a Swin, torchvision's own or timm's.

torchvision counts the background as class 0, in RetinaNet too; detectron2 has it last, and none in RetinaNet.

====================================================  ====================================================
there                                                 here
====================================================  ====================================================
backbone.body.[features.]{0,1,2,...}.*                backbone.net.{patch_embed,layers.0,layers.0.downsample}
backbone.fpn.{inner,layer}_blocks.N.[0.]*             backbone.fpn_{lateral,output}(2 + N or 3 + N).*
backbone.fpn.extra_blocks.{p6,p7}.*                   backbone.top_block.{p6,p7}.*
rpn.head.{conv.[N.0.],cls_logits,bbox_pred}.*         proposal_generator.rpn_head.{conv,...}.*
roi_heads.box_head.{fc6,fc7}.*                        roi_heads.box_head.{fc1,fc2}.*
roi_heads.box_head.N.{0,1}.*, .5.* (four convs)       roi_heads.box_head.conv(N + 1).[norm.]*, .fc1.*
roi_heads.box_predictor.*                             the same, classes in another order
roi_heads.mask_head.{N.0,mask_fcn(N + 1)}.*           roi_heads.mask_head.mask_fcn(N + 1).*
roi_heads.mask_predictor.{conv5_mask,...}.*           roi_heads.mask_head.{deconv,predictor}.*
head.{classification,regression}_head.conv.N.[0.]*    head.{cls,bbox}_subnet.(2 N).*
head.*_head.{cls_logits,bbox_reg}.*                   head.{cls_score,bbox_pred}.*, anchors in another order
====================================================  ====================================================
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .family import Family, Rules, State, first_level, numbers, shift, size_major

# A stage of torchvision's Swin is two entries of a list: its blocks (odd) and the merging behind them (even).
_SWIN: Rules = [
    (r"^backbone\.body\.(?:features\.)?", "backbone.net."),
    (r"^backbone\.net\.0\.0\.", "backbone.net.patch_embed.proj."),
    (r"^backbone\.net\.0\.2\.", "backbone.net.patch_embed.norm."),
    *((rf"^backbone\.net\.{2 * i + 1}\.", f"backbone.net.layers.{i}.blocks.") for i in range(4)),
    *((rf"^backbone\.net\.{2 * i + 2}\.", f"backbone.net.layers.{i}.downsample.") for i in range(3)),
    (r"^(backbone\.net\.layers\..*\.mlp)\.0\.", r"\1.fc1."),
    (r"^(backbone\.net\.layers\..*\.mlp)\.3\.", r"\1.fc2."),
]
# In a block "0." is the convolution and "1." its norm; older files have no blocks.
_CONV = r"(?:0\.)?(?=weight|bias)"


def _rules(state: Mapping[str, Tensor]) -> Rules:
    first = first_level(
        state,
        r"^backbone\.fpn\.inner_blocks\.0\.(0\.)?weight",
        r"^backbone\.body\.(features\.0\.0|0\.0|.*patch_embed\.proj)\.weight",
    )
    convs = numbers(state, r"^rpn\.head\.conv\.(\d+)\.0\.")
    rpn = "proposal_generator.rpn_head"
    return [
        *_SWIN,
        (rf"^backbone\.fpn\.inner_blocks\.(\d+)\.{_CONV}", shift("backbone.fpn_lateral{}.", first)),
        (r"^backbone\.fpn\.inner_blocks\.(\d+)\.1\.", shift("backbone.fpn_lateral{}.norm.", first)),
        (rf"^backbone\.fpn\.layer_blocks\.(\d+)\.{_CONV}", shift("backbone.fpn_output{}.", first)),
        (r"^backbone\.fpn\.layer_blocks\.(\d+)\.1\.", shift("backbone.fpn_output{}.norm.", first)),
        (r"^backbone\.fpn\.extra_blocks\.", "backbone.top_block."),
        (r"^rpn\.head\.conv\.(\d+)\.0\.", rf"{rpn}.conv.conv\1." if len(convs) > 1 else f"{rpn}.conv."),
        (r"^rpn\.head\.conv\.", f"{rpn}.conv."),
        (r"^rpn\.head\.cls_logits\.", f"{rpn}.objectness_logits."),
        (r"^rpn\.head\.bbox_pred\.", f"{rpn}.anchor_deltas."),
        (r"^roi_heads\.box_head\.fc6\.", "roi_heads.box_head.fc1."),
        (r"^roi_heads\.box_head\.fc7\.", "roi_heads.box_head.fc2."),
        (r"^roi_heads\.box_head\.(\d)\.0\.", shift("roi_heads.box_head.conv{}.", 1)),
        (r"^roi_heads\.box_head\.(\d)\.1\.", shift("roi_heads.box_head.conv{}.norm.", 1)),
        (r"^roi_heads\.box_head\.5\.", "roi_heads.box_head.fc1."),
        (r"^roi_heads\.mask_head\.(\d)\.0\.", shift("roi_heads.mask_head.mask_fcn{}.", 1)),
        (r"^roi_heads\.mask_predictor\.conv5_mask\.", "roi_heads.mask_head.deconv."),
        (r"^roi_heads\.mask_predictor\.mask_fcn_logits\.", "roi_heads.mask_head.predictor."),
        (rf"^head\.classification_head\.conv\.(\d)\.{_CONV}", shift("head.cls_subnet.{}.", 0, 2)),
        (rf"^head\.regression_head\.conv\.(\d)\.{_CONV}", shift("head.bbox_subnet.{}.", 0, 2)),
        (r"^head\.classification_head\.cls_logits\.", "head.cls_score."),
        (r"^head\.regression_head\.bbox_reg\.", "head.bbox_pred."),
    ]


def _adapt(state: State, own: Mapping[str, Tensor]) -> list[str]:
    anchors = len(state.get("head.bbox_pred.weight", ())) // 4
    for part in ("weight", "bias"):
        for name, change in {
            f"roi_heads.box_predictor.cls_score.{part}": lambda t: torch.cat([t[1:], t[:1]]),
            f"roi_heads.box_predictor.bbox_pred.{part}": lambda t: t[4:],
            f"roi_heads.mask_head.predictor.{part}": lambda t: t[1:],
            f"head.cls_score.{part}": lambda t: t.unflatten(0, (anchors, -1))[:, 1:].flatten(0, 1),
        }.items():
            if name in state:
                state[name] = change(state[name])
        size_major(state, [f"head.cls_score.{part}", f"head.bbox_pred.{part}"], anchors)
    return []


TORCHVISION = Family(
    name="torchvision",
    what="torchvision's detection models",
    mark=r"^backbone\.(body|fpn\.inner_blocks)\.",
    rules=_rules,
    adapt=_adapt,
)
