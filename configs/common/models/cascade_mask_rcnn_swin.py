"""Cascade Mask R-CNN on Swin-B with Mona, visible images: 4conv1fc box heads with SyncBN, GIoU loss.

As detectron2 has it, one mask head learns from the first stage's regions, and later stages take all regions
that the stage before gave. The paper's framework (mmdetection) has three mask heads and samples anew.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, FastRCNNOutputLayers

from ivtuning.backbones.stems import VisibleOnly
from ivtuning.heads.cascade import CascadeHeads, RefiningOutputLayers, sync_bn
from ivtuning.tuning import Mona

from .faster_rcnn_swin import model
from .mask_head import add_mask_head

# As in the paper's code, the frozen trunk's drop-path stays on in training.
model.backbone.net.update(stem=L(VisibleOnly)(), tuner=L(Mona)(), drop_path_rate=0.3, frozen_eval=False)

rpn = model.proposal_generator
rpn.head.conv_dims = [-1]
rpn.update(smooth_l1_beta=1 / 9, anchor_boundary_thresh=0, post_nms_topk=(2000, 1000))

_pooler = model.roi_heads.box_pooler
# Of each stage: IoU that makes a region positive, scales of its box deltas, weight of its losses, outputs.
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
    proposal_matchers=[
        L(Matcher)(thresholds=[iou], labels=[0, 1], allow_low_quality_matches=False) for iou, *_ in _stages
    ],
)
add_mask_head(model)
model.roi_heads.mask_head.conv_norm = ""

model.pixel_mean = [123.675, 116.28, 103.53]
model.pixel_std = [58.395, 57.12, 57.375]
