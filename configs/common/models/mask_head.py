"""Turns a box detector into Mask R-CNN."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from timm.layers import LayerNorm2d

from .detector_parts import roi_pooler


def add_mask_head(model, conv_dims=(256, 256, 256, 256, 256), sampling_ratio=0):
    """Add ViTDet's mask head on the box head's levels; the last of `conv_dims` is the deconvolution's."""
    heads = model.roi_heads
    heads.mask_in_features = list(heads.box_in_features)
    heads.mask_pooler = roi_pooler(tuple(heads.box_pooler.scales), 14, sampling_ratio)
    heads.mask_head = L(MaskRCNNConvUpsampleHead)(
        input_shape=L(ShapeSpec)(channels="${....backbone.out_channels}", width=14, height=14),
        num_classes="${..num_classes}",
        conv_dims=list(conv_dims),
        conv_norm=LayerNorm2d,
    )
