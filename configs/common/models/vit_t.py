"""What configs of ViT-Ti/16 share: its size, pixels and weights, and adapters in proportion to it.

The adapters have 3.8 to 4.5 % of the trunk's 5.5 M parameters. With their default widths, which are meant for
ViT-B, they would have 5 to 19 %.
"""

from detectron2.config import LazyCall as L

from ivtuning.tuning import IVTuning
from ivtuning.tuning.stems import PromptStem

vit_t = dict(stem=L(PromptStem)(), tuner=L(IVTuning)(hidden_dim=12), embed_dim=192, depth=12, num_heads=3)
# Options of the tuners that method=<name> chooses.
methods = dict(
    Mona=dict(hidden_dim=16),
    Adapter=dict(hidden_dim=24),
    AdaptFormer=dict(hidden_dim=48),
    LoRA=dict(rank=24, alpha=24),
)
# The statistics that these weights were trained with, for both images.
PIXELS = [127.5] * 6
WEIGHTS = "timm://vit_tiny_patch16_224.augreg_in21k_ft_in1k"
