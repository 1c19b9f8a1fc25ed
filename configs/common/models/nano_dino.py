"""DINO small enough for a CPU, with the trunk and the pyramid of the nano detector."""

from .dino_swin import model
from .nano import model as _nano

model.backbone = _nano.backbone
model.transformer.update(
    embed_dim=64,
    num_heads=4,
    feedforward_dim=256,
    encoder_layers=2,
    decoder_layers=3,
    num_levels=3,
    num_queries=100,
)
model.denoising.num_dn_queries = 20
model.max_detections_per_image = 100
