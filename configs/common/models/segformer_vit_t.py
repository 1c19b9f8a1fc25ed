"""SegFormer's decoder with 128 channels on ViT-Ti, for CPUs: maps of four blocks, positions for 256 px."""

from .segformer_vit import model
from .vit_t import PIXELS, vit_t

out_indices = (2, 5, 8, 11)
model.backbone.net.update(img_size=256, drop_path_rate=0.0, out_indices=out_indices, **vit_t)
model.sem_seg_head.decoder.update(
    in_features=[f"block{i}" for i in out_indices], in_channels=[vit_t["embed_dim"]] * 4, channels=128
)
model.update(pixel_mean=PIXELS, pixel_std=PIXELS)
