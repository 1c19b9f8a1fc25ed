"""A segmentor on plain ViT-L (positions for 512 px, maps of blocks 9, 14, 19 and 23), without its decoder."""

from detectron2.config import LazyCall as L

from ivtuning.backbones.vit import PlainViT
from ivtuning.tuning import IVTuning
from ivtuning.tuning.stems import PromptStem

from .segmentor import model

out_indices = (9, 14, 19, 23)
model.backbone.net = L(PlainViT)(
    stem=L(PromptStem)(),
    tuner=L(IVTuning)(),
    img_size=512,
    embed_dim=1024,
    depth=24,
    num_heads=16,
    drop_path_rate=0.1,
    out_indices=out_indices,
)
# Names and channels of these maps.
features = [f"block{i}" for i in out_indices]
channels = [1024] * len(features)
