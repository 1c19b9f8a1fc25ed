"""Parts that detectron2's detectors share: anchors, matchers, region proposals and heads on regions."""

from detectron2.config import LazyCall as L
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import StandardROIHeads


def anchor_generator(sizes, strides, kind=DefaultAnchorGenerator):
    """Anchors of three aspect ratios; `sizes` lists those of every map."""
    return L(kind)(sizes=sizes, aspect_ratios=[0.5, 1.0, 2.0], strides=strides, offset=0.0)


def anchor_matcher(low, high):
    """Anchors with an IoU below `low` are negative, from `high` positive, and ignored in between."""
    return L(Matcher)(thresholds=[low, high], labels=[0, -1, 1], allow_low_quality_matches=True)


def anchor_transform():
    """Deltas of anchors, not scaled."""
    return L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0])


def proposal_matcher(iou):
    """Proposals with at least this IoU are positive, all others negative."""
    return L(Matcher)(thresholds=[iou], labels=[0, 1], allow_low_quality_matches=False)


def roi_pooler(scales, output_size=7, sampling_ratio=0):
    """RoIAlign on maps of these scales, 1 / stride."""
    return L(ROIPooler)(
        output_size=output_size, scales=scales, sampling_ratio=sampling_ratio, pooler_type="ROIAlignV2"
    )


def region_proposals(**options):
    """An RPN; `options` give `in_features`, `head` and `anchor_generator`, and may replace the defaults."""
    defaults = dict(
        anchor_matcher=anchor_matcher(0.3, 0.7),
        box2box_transform=anchor_transform(),
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_topk=(2000, 1000),
        post_nms_topk=(1000, 1000),
        nms_thresh=0.7,
    )
    return L(RPN)(**defaults | options)


def roi_heads(**options):
    """R-CNN heads; `options` give the classes, maps, pooler, box head and predictor."""
    defaults = dict(batch_size_per_image=512, positive_fraction=0.25, proposal_matcher=proposal_matcher(0.5))
    return L(StandardROIHeads)(**defaults | options)
