"""RetinaNet (arXiv 1708.02002) on the last three stages of Swin-L with Mona, visible images, 20 classes.

P6 is a convolution of the last stage's map. P7 is a convolution of P6 after a ReLU, which mmdetection leaves
out.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead

from ivtuning.meta_arch import PairedRetinaNet
from ivtuning.necks.feature_pyramid import FeaturePyramid

from ..constants import VISIBLE_MEAN, VISIBLE_STD
from .detector_parts import anchor_generator, anchor_matcher, anchor_transform
from .trunks import visible_swin

model = L(PairedRetinaNet)(
    backbone=L(FeaturePyramid)(
        net=visible_swin("swin_l", drop_path_rate=0.2, out_indices=(1, 2, 3)),
        out_channels=256,
        # "p3" is the trunk's name of its last stage, 8 times embed_dim wide.
        top_block=L(LastLevelP6P7)(in_channels=1536, out_channels="${..out_channels}", in_feature="p3"),
    ),
    head=L(RetinaNetHead)(
        input_shape=[L(ShapeSpec)(channels="${....backbone.out_channels}") for _ in range(5)],
        num_classes="${..num_classes}",
        num_anchors=9,
        conv_dims=[256, 256, 256, 256],
        prior_prob=0.01,
    ),
    head_in_features=["p3", "p4", "p5", "p6", "p7"],
    anchor_generator=anchor_generator(
        [[size * 2 ** (i / 3) for i in range(3)] for size in (32, 64, 128, 256, 512)], [8, 16, 32, 64, 128]
    ),
    anchor_matcher=anchor_matcher(0.4, 0.5),
    box2box_transform=anchor_transform(),
    num_classes=20,
    focal_loss_alpha=0.25,
    focal_loss_gamma=2.0,
    smooth_l1_beta=0.0,
    test_score_thresh=0.05,
    test_topk_candidates=1000,
    test_nms_thresh=0.5,
    max_detections_per_image=100,
    pixel_mean=VISIBLE_MEAN,
    pixel_std=VISIBLE_STD,
    input_format="RGB",
)
