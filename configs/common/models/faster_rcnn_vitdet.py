"""Faster R-CNN on ViTDet-B (arXiv 2203.16527): simple pyramid, 2-conv RPN, 4conv1fc head with LayerNorm."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.proposal_generator import StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, FastRCNNOutputLayers
from timm.layers import LayerNorm2d

from ivtuning.backbones.vit import ViTDet
from ivtuning.meta_arch import PairedRCNN
from ivtuning.necks.feature_pyramid import SimpleFeaturePyramid
from ivtuning.tuning import IVTuning
from ivtuning.tuning.stems import PromptStem

from ..constants import PAIR_MEAN, PAIR_STD
from .detector_parts import anchor_generator, region_proposals, roi_heads, roi_pooler

model = L(PairedRCNN)(
    backbone=L(SimpleFeaturePyramid)(
        net=L(ViTDet)(
            stem=L(PromptStem)(),
            tuner=L(IVTuning)(),
            img_size=1024,
            patch_size=16,
            embed_dim=768,
            depth=12,
            num_heads=12,
            drop_path_rate=0.1,
            window_size=14,
            global_blocks=[2, 5, 8, 11],
        ),
        out_channels=256,
        scale_factors=(4.0, 2.0, 1.0, 0.5),
        top_block=L(LastLevelMaxPool)(),
    ),
    proposal_generator=region_proposals(
        in_features=["p2", "p3", "p4", "p5", "p6"],
        head=L(StandardRPNHead)(in_channels="${...backbone.out_channels}", num_anchors=3, conv_dims=[-1, -1]),
        anchor_generator=anchor_generator([[32], [64], [128], [256], [512]], [4, 8, 16, 32, 64]),
    ),
    roi_heads=roi_heads(
        num_classes=6,
        box_in_features=["p2", "p3", "p4", "p5"],
        box_pooler=roi_pooler((1 / 4, 1 / 8, 1 / 16, 1 / 32)),
        box_head=L(FastRCNNConvFCHead)(
            input_shape=L(ShapeSpec)(channels="${....backbone.out_channels}", height=7, width=7),
            conv_dims=[256, 256, 256, 256],
            fc_dims=[1024],
            conv_norm=LayerNorm2d,
        ),
        box_predictor=L(FastRCNNOutputLayers)(
            input_shape=L(ShapeSpec)(channels="${...box_head.fc_dims.0}"),
            test_score_thresh=0.05,
            box2box_transform=L(Box2BoxTransform)(weights=(10, 10, 5, 5)),
            num_classes="${..num_classes}",
        ),
    ),
    pixel_mean=PAIR_MEAN,
    pixel_std=PAIR_STD,
    input_format="RGB",
    square_pad=1024,
)
