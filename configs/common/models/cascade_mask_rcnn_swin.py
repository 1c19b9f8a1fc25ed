"""Cascade Mask R-CNN on Swin-B with Mona, visible images: 4conv1fc box heads with SyncBN, GIoU loss.

As in detectron2, one mask head learns from the first stage's regions, and each later stage takes all regions
of the stage before. The paper's framework (mmdetection) has three mask heads and samples regions anew.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, FastRCNNOutputLayers

from ivtuning.heads.cascade import CascadeHeads, RefiningOutputLayers, sync_bn

from ..constants import VISIBLE_MEAN, VISIBLE_STD
from .detector_parts import proposal_matcher
from .faster_rcnn_swin import model
from .mask_head import add_mask_head
from .trunks import visible_swin

model.backbone.net = visible_swin("swin_b", drop_path_rate=0.3)

rpn = model.proposal_generator
rpn.head.conv_dims = [-1]
rpn.update(smooth_l1_beta=1 / 9, anchor_boundary_thresh=0, post_nms_topk=(2000, 1000))

_pooler = model.roi_heads.box_pooler
# For each stage: IoU from which a region is positive, scales of the box deltas, loss weight, outputs.
_stages = [
    (0.5, (10, 10, 5, 5), 1.0, RefiningOutputLayers),
    (0.6, (20, 20, 10, 10), 0.5, RefiningOutputLayers),
    (0.7, (1 / 0.033, 1 / 0.033, 1 / 0.067, 1 / 0.067), 0.25, FastRCNNOutputLayers),
]
model.roi_heads = L(CascadeHeads)(
    num_classes=80,
    batch_size_per_image=512,
    positive_fraction=0.25,
    box_in_features=["p2", "p3", "p4", "p5"],
    box_pooler=_pooler,
    box_heads=[
        L(FastRCNNConvFCHead)(
            input_shape=L(ShapeSpec)(channels="${.....backbone.out_channels}", height=7, width=7),
            conv_dims=[256, 256, 256, 256],
            fc_dims=[1024],
            conv_norm=sync_bn,
        )
        for _ in _stages
    ],
    box_predictors=[
        L(outputs)(
            input_shape=L(ShapeSpec)(channels="${....box_heads.0.fc_dims.0}"),
            num_classes="${...num_classes}",
            box2box_transform=L(Box2BoxTransform)(weights=scales),
            box_reg_loss_type="giou",
            loss_weight=dict(loss_cls=weight, loss_box_reg=10 * weight),
            test_score_thresh=0.05,
            test_nms_thresh=0.5,
            test_topk_per_image=100,
        )
        for _, scales, weight, outputs in _stages
    ],
    proposal_matchers=[proposal_matcher(iou) for iou, *_ in _stages],
)
add_mask_head(model)
model.roi_heads.mask_head.conv_norm = ""

model.pixel_mean = VISIBLE_MEAN
model.pixel_std = VISIBLE_STD
