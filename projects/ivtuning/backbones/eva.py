"""EVA-02 (arXiv 2303.11331) as a trunk, from timm's blocks."""

from __future__ import annotations

from collections.abc import Sequence

from timm.layers import create_rope_embed
from timm.models import eva
from torch import Tensor, nn

from ..tuning import Tuner
from .block import OpenBlock
from .stems import Stem
from .vit import LayerNorm, PlainViT


class Eva02Block(OpenBlock, eva.EvaBlock):
    """An EVA-02 block on tokens, (B, N, C): rotary positions, a SwiGLU MLP with a norm inside.

    `rope`, (patches, 2 C / heads), is set by the trunk before each pass: all blocks share one.
    """

    rope: Tensor | None = None

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, drop_path: float, prefix: int):
        super().__init__(
            dim,
            num_heads,
            qkv_fused=False,
            mlp_ratio=mlp_ratio,
            swiglu_mlp=True,
            scale_mlp=True,
            num_prefix_tokens=prefix,
            drop_path=drop_path,
            norm_layer=LayerNorm,
        )
        self.ls1 = self.ls2 = nn.Identity()

    def attend(self, x: Tensor) -> Tensor:
        return self.attn(x, rope=self.rope)


class Eva02(PlainViT):
    """EVA-02: a plain ViT with rotary positions besides the absolute ones.

    Parameter names are those of timm's ``eva02_*``. The defaults are EVA-02-L: 303,778,752 base parameters at
    384 px, 304,237,504 at 512 px.

    Args:
        stem, tuner: the plugins.
        img_size: side of the images behind `pos_embed`, in pixels.
        rope_grid: side, in patches, of the first pretraining's grid: rotary positions keep its range.
        out_indices: indices of the blocks whose output is returned, as "block<i>".
        class_token: prepend a cls token.
        final_norm: end with a LayerNorm (applied to the last block's tap).
        frozen_eval, activation_checkpointing: see :meth:`ivtuning.backbones.trunk.Trunk.attach`.

    Forward: (B, 3 or 6, H, W) float -> {"block<i>": (B, C, H/patch, W/patch)} for each tap.
    """

    def __init__(
        self,
        stem: Stem,
        tuner: Tuner,
        img_size: int = 512,
        patch_size: int = 16,
        embed_dim: int = 1024,
        depth: int = 24,
        num_heads: int = 16,
        mlp_ratio: float = 4 * 2 / 3,
        drop_path_rate: float = 0.0,
        rope_grid: int = 16,
        out_indices: Sequence[int] = (7, 11, 15, 23),
        class_token: bool = True,
        final_norm: bool = False,
        frozen_eval: bool = True,
        activation_checkpointing: str | None = None,
    ):
        super().__init__(
            stem,
            tuner,
            img_size,
            patch_size,
            embed_dim,
            depth,
            num_heads,
            mlp_ratio,
            drop_path_rate,
            out_indices,
            class_token,
            final_norm,
            frozen_eval,
            activation_checkpointing,
        )
        self.rope = create_rope_embed(
            "cat", dim=embed_dim, num_heads=num_heads, in_pixels=False, ref_feat_shape=(rope_grid, rope_grid)
        )

    def _block(self, dim: int, num_heads: int, mlp_ratio: float, drop_path: float) -> OpenBlock:
        return Eva02Block(dim, num_heads, mlp_ratio, drop_path, self.prefix)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        size = [-(-side // self.size_divisibility) for side in x.shape[2:]]
        rope = self.rope.get_embed(size)
        for block in self.blocks:
            block.rope = rope
        return super().forward(x)
