"""DINO small enough for a CPU, on the trunk and the pyramid of the nano detector."""

from .dino_swin import model
from .nano import model as _nano

model.backbone = _nano.backbone
model.transformer.update(
    dim=64, heads=4, hidden=256, encoder_layers=2, decoder_layers=3, levels=3, num_queries=100
)
model.denoising.pairs = 20
model.detections = 100
