"""EVA-02 (arXiv 2303.11331) as a trunk, from timm's blocks."""

from __future__ import annotations

from collections.abc import Sequence

from timm.layers import create_rope_embed
from timm.models import eva
from torch import Tensor

from ..tuning import Tuner
from ..tuning.sites import ScaledBlock
from ..tuning.stems import Stem
from .block import OpenBlock
from .vit import PlainViT


class RopeBlock(OpenBlock, ScaledBlock, eva.EvaBlock):
    """timm's EVA block on tokens, (B, N, C).

    Its attention takes `rope`, the rotary positions of the patches, (patches, 2 C / heads).
    """


class Eva02(PlainViT):
    """EVA-02: a plain ViT with rotary positions besides the absolute ones.

    Parameter names are those of timm's ``eva02_*``. The defaults are EVA-02-L: 303,778,752 base parameters at
    384 px, 304,237,504 at 512 px.

    Args:
        stem, tuner: the plugins.
        img_size: side of the images behind `pos_embed`, in pixels.
        out_indices: indices of the blocks whose output is returned, as "block<i>".
        rope_grid: side, in patches, of the first pretraining's grid: rotary positions keep its range.
        options: all others of :class:`ivtuning.backbones.vit.PlainViT`.

    Forward: (B, 3 or 6, H, W) float -> {"block<i>": (B, C, H/patch, W/patch)}.
    """

    def __init__(
        self,
        stem: Stem,
        tuner: Tuner,
        img_size: int = 512,
        out_indices: Sequence[int] = (7, 11, 15, 23),
        rope_grid: int = 16,
        *,
        embed_dim: int = 1024,
        depth: int = 24,
        num_heads: int = 16,
        mlp_ratio: float = 4 * 2 / 3,
        **options,
    ):
        size: dict = dict(embed_dim=embed_dim, depth=depth, num_heads=num_heads, mlp_ratio=mlp_ratio)
        super().__init__(stem, tuner, img_size, out_indices, **size, **options)
        self.rope = create_rope_embed(
            "cat", dim=embed_dim, num_heads=num_heads, in_pixels=False, ref_feat_shape=(rope_grid, rope_grid)
        )

    def make_block(self, drop_path: float) -> RopeBlock:
        return RopeBlock(
            **self.block_options(drop_path),
            num_prefix_tokens=self.prefix,
            qkv_fused=False,
            swiglu_mlp=True,
            scale_mlp=True,
        )

    def attention_options(self, size: tuple[int, int]) -> dict[str, Tensor]:
        return {"rope": self.rope.get_embed(size)}
