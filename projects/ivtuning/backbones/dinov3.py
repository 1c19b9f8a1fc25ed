"""DINOv3's ViTs (arXiv 2508.10104) as trunks, from timm's EVA blocks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from timm.layers import create_rope_embed
from torch import Tensor

from ..tuning import Tuner
from ..tuning.stems import Stem
from .eva import RopeBlock
from .stream_norm import StreamNorm
from .vit import PlainViT

# The published ones, as their authors call them.
DINOV3_SIZES: dict[str, dict] = {
    "dinov3_vits16": dict(embed_dim=384, depth=12, num_heads=6),
    "dinov3_vits16plus": dict(embed_dim=384, depth=12, num_heads=6, swiglu_mlp=True),
    "dinov3_vitb16": dict(embed_dim=768, depth=12, num_heads=12),
    "dinov3_vitl16": dict(embed_dim=1024, depth=24, num_heads=16),
    "dinov3_vith16plus": dict(embed_dim=1280, depth=32, num_heads=20, swiglu_mlp=True),
}


class DINOv3(PlainViT):
    """DINOv3: LayerScale, register tokens, and rotary positions in place of absolute ones.

    Parameter names and outputs are those of timm's ``vit_*_patch16_dinov3``, with the final norm on all
    outputs. The defaults are ViT-B: 85,641,216 base parameters. The projections of query, key and value have
    no bias, since the released ones are zero. A rotary position is a patch's place in the image, from -1 to 1
    along either side, so the trunk takes any size.

    Args:
        stem, tuner: the plugins.
        out_indices: indices of the blocks whose output is returned, as "block<i>".
        swiglu_mlp: the MLPs are gated, as ViT-S+ and ViT-H+ have them.
        options: all others of :class:`ivtuning.backbones.vit.PlainViT`, but `img_size`.

    Forward: (B, 3 or 6, H, W) float -> {"block<i>": (B, C, H/patch, W/patch)}.
    """

    norm_everywhere = True
    norm_layer = staticmethod(partial(StreamNorm, eps=1e-5))

    def __init__(
        self,
        stem: Stem,
        tuner: Tuner,
        out_indices: Sequence[int] = (11,),
        swiglu_mlp: bool = False,
        *,
        reg_tokens: int = 4,
        final_norm: bool = True,
        init_values: float = 1e-5,
        **options,
    ):
        self.swiglu_mlp = swiglu_mlp  # the constructor below makes the blocks
        super().__init__(stem, tuner, None, out_indices, final_norm, reg_tokens, init_values, **options)
        self.rope = create_rope_embed(
            "dinov3", self.embed_dim, self.num_heads, temperature=100.0, rotate_half=True
        )

    def make_block(self, drop_path: float) -> RopeBlock:
        return RopeBlock(
            **self.block_options(drop_path) | dict(qkv_bias=False),
            num_prefix_tokens=self.prefix,
            rotate_half=True,
            swiglu_mlp=self.swiglu_mlp,
            swiglu_align_to=8 if self.swiglu_mlp else 0,
        )

    def attention_options(self, size: tuple[int, int]) -> dict[str, Tensor]:
        return {"rope": self.rope.get_embed(size)}
