"""Faster R-CNN on ViT-Ti, for CPUs: maps of stride 8, 16 and 32, 128 channels, narrow heads.

All blocks attend globally. At 384x512 px a map has 24x32 patches, which windows of 14 patches would pad to
28x42. There are no relative positions: their tables start at zero, where a frozen trunk leaves them.
"""

from .faster_rcnn_vitdet import model
from .vit_t import PIXELS, vit_t

model.backbone.net.update(
    img_size=512, drop_path_rate=0.0, use_rel_pos=False, global_blocks=list(range(12)), **vit_t
)
model.backbone.update(out_channels=128, scale_factors=(2.0, 1.0, 0.5), top_block=None)
model.update(pixel_mean=PIXELS, pixel_std=PIXELS, square_pad=0)

rpn = model.proposal_generator
rpn.update(in_features=["p3", "p4", "p5"], pre_nms_topk=(1000, 500), post_nms_topk=(500, 200))
rpn.head.update(conv_dims=[-1], num_anchors=6)
rpn.anchor_generator.update(sizes=[[16, 24], [32, 64], [96, 160]], strides=[8, 16, 32])

heads = model.roi_heads
heads.update(box_in_features=["p3", "p4", "p5"], batch_size_per_image=128)
heads.box_pooler.update(scales=(1 / 8, 1 / 16, 1 / 32))
heads.box_head.update(conv_dims=[128], fc_dims=[512])
