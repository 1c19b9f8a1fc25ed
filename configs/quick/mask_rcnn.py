"""Seconds long: Mask R-CNN on pairs, which the synthetic scenes have masks for."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from timm.layers import LayerNorm2d

from .ivtuning import data, dataloader, lr_multiplier, model, optimizer, train

_heads = model.roi_heads
_heads.mask_in_features = _heads.box_in_features
_heads.mask_pooler = L(ROIPooler)(
    output_size=14, scales=_heads.box_pooler.scales, sampling_ratio=2, pooler_type="ROIAlignV2"
)
_heads.mask_head = L(MaskRCNNConvUpsampleHead)(
    input_shape=L(ShapeSpec)(channels="${....backbone.out_channels}", width=14, height=14),
    num_classes="${..num_classes}",
    conv_dims=[32, 32],
    conv_norm=LayerNorm2d,
)
dataloader.train.mapper.use_instance_mask = True
train.output_dir = "output/quick/mask_rcnn"
