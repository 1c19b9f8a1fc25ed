"""Co-DINO of Sense-X/Co-DETR and of mmdetection 3.x, and mmdetection's DINO.

The names are listed in :mod:`ivtuning.heads.codetr`. In mmdetection 3.x the transformer's parts stand beside
the head instead of in it.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .dino import LAYERS, neck_rules, share_heads
from .family import Family, Rules, State, numbers, shift
from .mmdet import RPN

_ATSS: Rules = [
    (r"^bbox_head\.0\.(cls|reg)_convs\.(\d+)\.conv\.", r"atss.\1_convs.\2."),
    (r"^bbox_head\.0\.(cls|reg)_convs\.(\d+)\.gn\.", r"atss.\1_convs.\2.norm."),
    (r"^bbox_head\.0\.scales\.(\d+)\.scale$", r"atss.scales.\1"),
    (r"^bbox_head\.0\.atss_cls\.", "atss.cls_score."),
    (r"^bbox_head\.0\.atss_reg\.", "atss.bbox_pred."),
    (r"^bbox_head\.0\.atss_centerness\.", "atss.centerness."),
]
_RCNN: Rules = [
    (r"^roi_head\.0\.bbox_head\.shared_fcs\.(\d+)\.", shift("roi_heads.box_head.fc{}.", 1)),
    (r"^roi_head\.0\.bbox_head\.fc_cls\.", "roi_heads.box_predictor.cls_score."),
    (r"^roi_head\.0\.bbox_head\.fc_reg\.", "roi_heads.box_predictor.bbox_pred."),
]
_HEAD = r"^(?:query_head|bbox_head)"


def _rules(state: Mapping[str, Tensor]) -> Rules:
    last = max(numbers(state, _HEAD + r"\.cls_branches\.(\d+)\."), default=0)
    encoder, decoder = "transformer.enc_out_bbox_embed.layers", r"transformer.decoder.bbox_embed.\1.layers"
    return [
        (r"^backbone\.", "backbone.net."),
        *neck_rules(state),
        (_HEAD + r"\.transformer\.", "transformer."),
        (r"^(encoder|decoder|level_embed)\b", r"transformer.\1"),
        (r"^(?:query_embedding|transformer\.query_embed)\.", "transformer.tgt_embed."),
        (r"^memory_trans_fc\.", "transformer.enc_output."),
        (r"^memory_trans_norm\.", "transformer.enc_output_norm."),
        *LAYERS,
        # 2.x counts linear layers and the activations between them; 3.x counts the layers alone.
        (r"^(transformer\.decoder\.ref_point_head)\.0\.", r"\1.layers.0."),
        (r"^(transformer\.decoder\.ref_point_head)\.2\.", r"\1.layers.1."),
        (_HEAD + rf"\.cls_branches\.{last}\.", "transformer.enc_out_class_embed."),
        (_HEAD + r"\.cls_branches\.(\d+)\.", r"transformer.decoder.class_embed.\1."),
        *((_HEAD + rf"\.reg_branches\.{last}\.{2 * i}\.", f"{encoder}.{i}.") for i in range(3)),
        *((_HEAD + rf"\.reg_branches\.(\d+)\.{2 * i}\.", f"{decoder}.{i}.") for i in range(3)),
        (r"^(?:query_head\.)?(?:dn_\w+\.)?label_embedding\.", "label_enc."),
        (r"^query_head\.downsample\.", "downsample."),
        *RPN,
        *_RCNN,
        *_ATSS,
    ]


def _adapt(state: State, own: Mapping[str, Tensor]) -> list[str]:
    for name in state:
        if name.startswith("atss.scales."):  # scalars, which FSDP cannot distribute
            state[name] = state[name].reshape(1)
    return share_heads(state, own)


CODINO = Family(
    name="codino",
    what="Sense-X/Co-DETR (Co-DINO), or Co-DINO or DINO of mmdetection",
    mark=r"^(query_head|bbox_head)\.cls_branches\.",
    rules=_rules,
    adapt=_adapt,
)
