"""A classifier of pairs on ViT-Ti with IV-tuning: mean of the last map's tokens, one linear layer."""

from detectron2.config import LazyCall as L

from ivtuning.backbones.vit import PlainViT
from ivtuning.heads.classification import ImageClassifier
from ivtuning.necks.pooled import PooledTrunk

from .vit_t import PIXELS, vit_t

model = L(ImageClassifier)(
    backbone=L(PooledTrunk)(net=L(PlainViT)(img_size=224, out_indices=(11,), final_norm=True, **vit_t)),
    num_classes="???",
    pixel_mean=PIXELS,
    pixel_std=PIXELS,
)
