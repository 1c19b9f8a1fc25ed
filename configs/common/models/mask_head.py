"""Turns a box detector into Mask R-CNN."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from timm.layers import LayerNorm2d


def add_mask_head(model, conv_dims=(256, 256, 256, 256, 256), sampling_ratio=0):
    """Add ViTDet's mask head on the box head's levels; `conv_dims` ends with the deconvolution's."""
    heads = model.roi_heads
    heads.mask_in_features = list(heads.box_in_features)
    heads.mask_pooler = L(ROIPooler)(
        output_size=14,
        scales=tuple(heads.box_pooler.scales),
        sampling_ratio=sampling_ratio,
        pooler_type="ROIAlignV2",
    )
    heads.mask_head = L(MaskRCNNConvUpsampleHead)(
        input_shape=L(ShapeSpec)(channels="${....backbone.out_channels}", width=14, height=14),
        num_classes="${..num_classes}",
        conv_dims=list(conv_dims),
        conv_norm=LayerNorm2d,
    )
