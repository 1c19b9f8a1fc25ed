"""Detectors of mmdetection 2.x and 3.x on Swin: (Cascade) (Mask) R-CNN and RetinaNet.

Names and patch merging of its Swin are the business of :func:`..trunks.swin.from_mmdet`. Like detectron2, it
counts the background as the last class, and its box heads flatten their maps in the same order.

=================================================  ======================================================
there                                              here
=================================================  ======================================================
neck.lateral_convs.N.conv.*                        backbone.fpn_lateral(2 + N).*, (3 + N) without stride 4
neck.fpn_convs.N.conv.*                            backbone.fpn_output(as above).*, then top_block.{p6,p7}.*
rpn_head.{rpn_conv,rpn_cls,rpn_reg}.*              proposal_generator.rpn_head.{conv,objectness_logits,...}.*
roi_head.bbox_head.[S.]shared_convs.N.conv.*       roi_heads.box_head.[S.]conv(N + 1).*
roi_head.bbox_head.[S.]shared_convs.N.{bn,gn}.*    roi_heads.box_head.[S.]conv(N + 1).norm.*
roi_head.bbox_head.[S.]shared_fcs.N.*              roi_heads.box_head.[S.]fc(N + 1).*
roi_head.bbox_head.[S.]{fc_cls,fc_reg}.*           roi_heads.box_predictor.[S.]{cls_score,bbox_pred}.*
roi_head.mask_head.[last.]convs.N.conv.*           roi_heads.mask_head.mask_fcn(N + 1).*
roi_head.mask_head.[last.]{upsample,conv_logits}.* roi_heads.mask_head.{deconv,predictor}.*
bbox_head.{cls,reg}_convs.N.conv.*                 head.{cls,bbox}_subnet.(2 N).*
bbox_head.{retina_cls,retina_reg}.*                head.{cls_score,bbox_pred}.*, anchors in another order
=================================================  ======================================================
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .family import Family, Rules, State, first_level, numbers, shift, size_major

RPN: Rules = [
    (r"^rpn_head\.rpn_conv\.(\d+)\.conv\.", r"proposal_generator.rpn_head.conv.conv\1."),
    (r"^rpn_head\.rpn_conv\.", "proposal_generator.rpn_head.conv."),
    (r"^rpn_head\.rpn_cls\.", "proposal_generator.rpn_head.objectness_logits."),
    (r"^rpn_head\.rpn_reg\.", "proposal_generator.rpn_head.anchor_deltas."),
]
_BOX = r"^roi_head\.bbox_head\.((?:\d+\.)?)"
_MASKS = r"^roi_head\.mask_head\.(\d+)\."


def _rules(state: Mapping[str, Tensor]) -> Rules:
    first = first_level(state, r"^neck\.lateral_convs\.0\.conv\.weight", r"\bpatch_embed\.proj\.weight")
    laterals = len(numbers(state, r"^neck\.lateral_convs\.(\d+)\."))
    mask = r"^roi_head\.mask_head\." + "".join(rf"{n}\." for n in numbers(state, _MASKS)[-1:])
    return [
        (r"^backbone\.", "backbone.net."),
        (r"^neck\.lateral_convs\.(\d+)\.conv\.", shift("backbone.fpn_lateral{}.", first)),
        *((rf"^neck\.fpn_convs\.{n}\.conv\.", f"backbone.fpn_output{first + n}.") for n in range(laterals)),
        (r"^neck\.fpn_convs\.(\d+)\.conv\.", shift("backbone.top_block.p{}.", first)),
        *RPN,
        (_BOX + r"shared_convs\.(\d+)\.conv\.", shift(r"roi_heads.box_head.\1conv{}.", 1)),
        (_BOX + r"shared_convs\.(\d+)\.(?:bn|gn)\.", shift(r"roi_heads.box_head.\1conv{}.norm.", 1)),
        (_BOX + r"shared_fcs\.(\d+)\.", shift(r"roi_heads.box_head.\1fc{}.", 1)),
        (_BOX + r"fc_cls\.", r"roi_heads.box_predictor.\1cls_score."),
        (_BOX + r"fc_reg\.", r"roi_heads.box_predictor.\1bbox_pred."),
        (mask + r"convs\.(\d+)\.conv\.", shift("roi_heads.mask_head.mask_fcn{}.", 1)),
        (mask + r"upsample\.", "roi_heads.mask_head.deconv."),
        (mask + r"conv_logits\.", "roi_heads.mask_head.predictor."),
        (r"^bbox_head\.cls_convs\.(\d+)\.conv\.", shift("head.cls_subnet.{}.", 0, 2)),
        (r"^bbox_head\.reg_convs\.(\d+)\.conv\.", shift("head.bbox_subnet.{}.", 0, 2)),
        (r"^bbox_head\.retina_cls\.", "head.cls_score."),
        (r"^bbox_head\.retina_reg\.", "head.bbox_pred."),
    ]


def _adapt(state: State, own: Mapping[str, Tensor]) -> list[str]:
    notes = []
    if "head.bbox_pred.weight" in state:
        outputs = [n for n in state if n.startswith(("head.cls_score.", "head.bbox_pred."))]
        size_major(state, outputs, len(state["head.bbox_pred.weight"]) // 4)
    if "backbone.top_block.p7.weight" in state.keys() & own.keys():
        notes.append("P7 comes after a ReLU here, in mmdetection without: that level does not fit exactly")
    others = len(numbers(state, _MASKS))
    if others and any(n.startswith("roi_heads.mask_head.") for n in own):
        notes.append(f"the last of the file's {others + 1} mask heads is taken: the model has one")
    return notes


MMDET = Family(
    name="mmdet",
    what="(Cascade) (Mask) R-CNN or RetinaNet of mmdetection",
    mark=r"^(roi_head\.bbox_head|bbox_head\.retina_cls)\.",
    rules=_rules,
    adapt=_adapt,
)
