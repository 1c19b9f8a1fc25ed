"""SETR-PUP on DINOv2-L with registers: the last map upsampled step by step; auxiliary heads on all maps."""

from .segmentor_vit import out_indices
from .setr_pup_vit import model
from .trunks import paired_dinov2

model.backbone.net = paired_dinov2("dinov2_vitl14_reg", drop_path_rate=0.1, out_indices=out_indices)
# Batches are padded to whole patches of 14 px.
model.backbone.size_divisibility = 14
