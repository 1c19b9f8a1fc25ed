"""Co-DINO on Swin-L of window 12, five scales, with an R-CNN and an ATSS head in training (arXiv 2211.12860).

The auxiliary heads' losses weigh 12 times as much as usual: the decoder's 6 layers times the paper's
lambda_2 = 2.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNConvFCHead

from ivtuning.heads.codetr import (
    ATSSHead,
    CoTransformer,
    OutputLayers,
    PairedCoDINO,
    QualityCriterion,
    RPNHead,
    ShapeMajorAnchors,
    SoftNMS,
)

from .detector_parts import anchor_generator, region_proposals, roi_heads, roi_pooler
from .dino_swin import model as _dino

_strides = [4, 8, 16, 32, 64, 128]
_maps = ["p2", "p3", "p4", "p5", "p6", "p7"]

model = L(PairedCoDINO)(
    backbone=_dino.backbone,
    transformer=_dino.transformer,
    num_classes=6,
    max_detections_per_image=300,
    denoising=_dino.denoising,
    criterion=L(QualityCriterion)(matcher=_dino.criterion.matcher),
    proposal_generator=region_proposals(
        in_features=_maps,
        head=L(RPNHead)(in_channels="${...transformer.embed_dim}", num_anchors=9),
        anchor_generator=anchor_generator(
            [[4 * stride * 2 ** (i / 3) for i in range(3)] for stride in _strides],
            _strides,
            ShapeMajorAnchors,
        ),
        pre_nms_topk=(4000, 1000),
        loss_weight=12.0,
    ),
    roi_heads=roi_heads(
        num_classes="${..num_classes}",
        box_in_features=_maps[:-1],
        box_pooler=roi_pooler([1 / stride for stride in _strides[:-1]]),
        box_head=L(FastRCNNConvFCHead)(
            input_shape=L(ShapeSpec)(channels="${....transformer.embed_dim}", height=7, width=7),
            conv_dims=[],
            fc_dims=[1024, 1024],
        ),
        box_predictor=L(OutputLayers)(
            input_shape=L(ShapeSpec)(channels="${...box_head.fc_dims.1}"),
            box2box_transform=L(Box2BoxTransform)(weights=(10, 10, 5, 5)),
            num_classes="${...num_classes}",
            box_reg_loss_type="giou",
            loss_weight=dict(loss_cls=12.0, loss_box_reg=120.0),
        ),
    ),
    atss=L(ATSSHead)(
        dim="${..transformer.embed_dim}",
        num_classes="${..num_classes}",
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[8 * stride] for stride in _strides], aspect_ratios=[1.0], strides=_strides, offset=0.0
        ),
        convs=1,
        class_weight=12.0,
        box_weight=24.0,
        centerness_weight=12.0,
    ),
    soft_nms=L(SoftNMS)(iou_threshold=0.8, min_score=0.001),
    pad_value=None,
    pixel_mean=_dino.pixel_mean,
    pixel_std=_dino.pixel_std,
)
model.transformer._target_ = CoTransformer
model.transformer.update(num_co_heads=2, share_heads=False)
