"""DINOv2's ViTs (arXiv 2304.07193), with and without registers (arXiv 2309.16588), as trunks."""

from __future__ import annotations

from collections.abc import Sequence

from timm.layers import SwiGLUPacked
from torch import nn

from ..tuning import Tuner
from ..tuning.stems import Stem
from .vit import PlainBlock, PlainViT

_SIZES: dict[str, dict] = {
    "dinov2_vits14": dict(embed_dim=384, depth=12, num_heads=6),
    "dinov2_vitb14": dict(embed_dim=768, depth=12, num_heads=12),
    "dinov2_vitl14": dict(embed_dim=1024, depth=24, num_heads=16),
    # Two layers of 4096, one of which gates the other.
    "dinov2_vitg14": dict(embed_dim=1536, depth=40, num_heads=24, mlp_ratio=8192 / 1536, swiglu_mlp=True),
}
# The published ones, as their authors call them, without and with registers.
DINOV2_SIZES = {
    **{name: dict(reg_tokens=0, **size) for name, size in _SIZES.items()},
    **{f"{name}_reg": dict(reg_tokens=4, **size) for name, size in _SIZES.items()},
}


class DINOv2(PlainViT):
    """DINOv2: a plain ViT with LayerScale, patches of 14 px and, in its second release, register tokens.

    Parameter names and outputs are those of timm's ``vit_*_patch14_{,reg4_}dinov2``, with the final norm on
    all outputs. As there, positions are resized with a filter against aliasing. The defaults are ViT-B with
    four registers: 86,582,016 base parameters.

    Images are padded with zeros at the right and the bottom to multiples of 14 px, so the maps cover up to
    13 px more than the image.

    Args:
        stem, tuner: the plugins.
        img_size: side of the images behind `pos_embed`, in pixels.
        out_indices: indices of the blocks whose output is returned, as "block<i>".
        swiglu_mlp: the MLPs are gated, as ViT-g has them.
        options: all others of :class:`ivtuning.backbones.vit.PlainViT`.

    Forward: (B, 3 or 6, H, W) float -> {"block<i>": (B, C, h, w)}, h = H / 14 and w = W / 14, rounded up.
    """

    antialias = True
    norm_everywhere = True

    def __init__(
        self,
        stem: Stem,
        tuner: Tuner,
        img_size: int = 518,
        out_indices: Sequence[int] = (11,),
        swiglu_mlp: bool = False,
        *,
        patch_size: int = 14,
        reg_tokens: int = 4,
        final_norm: bool = True,
        init_values: float = 1e-5,
        **options,
    ):
        self.swiglu_mlp = swiglu_mlp  # the constructor below makes the blocks
        super().__init__(
            stem,
            tuner,
            img_size,
            out_indices,
            final_norm,
            reg_tokens,
            init_values,
            patch_size=patch_size,
            **options,
        )

    def make_block(self, drop_path: float) -> PlainBlock:
        gated: dict = dict(mlp_layer=SwiGLUPacked, act_layer=nn.SiLU) if self.swiglu_mlp else {}
        return PlainBlock(**self.block_options(drop_path), **gated)
