"""SegFormer's decoder on DINOv3-L: the maps of four blocks, each with the final norm."""

from .segformer_vit import model
from .segmentor_vit import out_indices
from .trunks import paired_dinov3

model.backbone.net = paired_dinov3("dinov3_vitl16", drop_path_rate=0.1, out_indices=out_indices)
