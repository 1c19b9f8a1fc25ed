"""Vision transformers as trunks, from timm's blocks: plain ViT and ViTDet (arXiv 2203.16527)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from timm.layers import trunc_normal_
from timm.models import vision_transformer, vision_transformer_sam
from torch import Tensor, nn

from ..errors import UserError
from ..tuning import Tuner
from ..tuning.base import BlockAdapters
from .attention.relpos import RelPosAttention
from .block import OpenBlock
from .patches import PatchEmbed, resize_positions
from .stems import Stem
from .trunk import Trunk

LayerNorm = partial(nn.LayerNorm, eps=1e-6)


class PlainBlock(OpenBlock, vision_transformer.Block):
    """A plain ViT block on tokens, (B, N, C)."""


class WindowBlock(OpenBlock, vision_transformer_sam.Block):
    """A ViTDet block on maps, (B, H, W, C); windows are padded with zeros at the right and the bottom."""

    def __init__(self, dim: int, num_heads: int, **kwargs):
        super().__init__(dim, num_heads, **kwargs)
        self.attn = RelPosAttention(
            dim,
            num_heads,
            use_rel_pos=kwargs["use_rel_pos"],
            input_size=(self.window_size,) * 2 if self.window_size else kwargs["input_size"],
        )

    def attend(self, x: Tensor) -> Tensor:
        if not self.window_size:
            return self.attn(x)
        size = x.shape[1:3]
        x, padded = vision_transformer_sam.window_partition(x, self.window_size)
        return vision_transformer_sam.window_unpartition(self.attn(x), self.window_size, size, padded)


class BypassPrefix:
    """Adapters for a sequence with prefix tokens: only the patches pass through `adapters`."""

    def __init__(self, adapters: BlockAdapters, size: tuple[int, int], prefix: int):
        self.inner, self.size, self.prefix = adapters, size, prefix

    def _map(self, x: Tensor) -> Tensor:
        return x[:, self.prefix :].unflatten(1, self.size)

    def _join(self, x: Tensor, patches: Tensor) -> Tensor:
        return torch.cat([x[:, : self.prefix], patches.flatten(1, 2)], 1)

    def after_attention(self, x, prompt):
        return self._join(x, self.inner.after_attention(self._map(x), prompt))

    def on_mlp(self, y, x):
        return self._join(y, self.inner.on_mlp(self._map(y), self._map(x)))

    def after_mlp(self, y, x, prompt):
        return self._join(y, self.inner.after_mlp(self._map(y), self._map(x), prompt))


class _ViT(Trunk):
    """What the plain and the windowed transformer share: patch embedding, positions, blocks."""

    def _build(
        self,
        block,
        embed_dim: int,
        depth: int,
        patch_size: int,
        grid: int,
        class_token: bool,
        drop_path: float,
    ):
        self.prefix = int(class_token)
        self.patch_embed = PatchEmbed(patch_size, embed_dim)
        self.pos_embed = nn.Parameter(
            trunc_normal_(torch.zeros(1, grid * grid + self.prefix, embed_dim), std=0.02)
        )
        rates = torch.linspace(0, drop_path, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(block(i, drop_path=rates[i]) for i in range(depth))
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def size_divisibility(self) -> int:
        return self.patch_embed.patch_size[0]

    def positions(self, size: tuple[int, int]) -> Tensor:
        """Position embedding of the patches, resized bicubically to `size`: (1, h, w, C)."""
        patches = self.pos_embed[:, self.prefix :]
        side = round(patches.shape[1] ** 0.5)
        return resize_positions(patches.unflatten(1, (side, side)), size)


class ViTDet(_ViT):
    """ViTDet's trunk: windowed blocks, a few global ones, decomposed relative positions, no final norm.

    Parameter names are those of detectron2's ViT. ViT-B at 1024 px has 85,889,024 base parameters.

    Args:
        stem, tuner: the plugins.
        img_size: side of the square, in pixels, that sizes the global blocks' position tables (inputs may
            have any size; tables are resized in the forward pass).
        window_size: side of the windows, in patches.
        global_blocks: indices of the blocks that attend globally; None: the last of each quarter.
        pretrain_img_size: side of the images behind `pos_embed`, in pixels.
        class_token: `pos_embed` carries a slot for a cls token (MAE's does); the token itself is not used.
        frozen_eval, activation_checkpointing: see :meth:`Trunk.attach`.

    Forward: (B, 3 or 6, H, W) float -> {"last_feat": (B, C, H/patch, W/patch)}.
    """

    def __init__(
        self,
        stem: Stem,
        tuner: Tuner,
        img_size: int = 1024,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        window_size: int = 14,
        global_blocks: Sequence[int] | None = None,
        use_rel_pos: bool = True,
        pretrain_img_size: int = 224,
        class_token: bool = True,
        frozen_eval: bool = True,
        activation_checkpointing: str | None = None,
    ):
        super().__init__()
        if global_blocks is None:
            global_blocks = [depth * k // 4 - 1 for k in (1, 2, 3, 4)]
        unknown = [i for i in global_blocks if not 0 <= i < depth]
        if unknown:
            raise UserError(
                f"global_blocks names block {unknown[0]}, the trunk has {depth}: give indices below it"
            )

        def block(i, drop_path):
            return WindowBlock(
                embed_dim,
                num_heads,
                mlp_ratio=mlp_ratio,
                drop_path=drop_path,
                norm_layer=LayerNorm,
                use_rel_pos=use_rel_pos,
                window_size=0 if i in global_blocks else window_size,
                input_size=(img_size // patch_size,) * 2,
            )

        self._build(
            block, embed_dim, depth, patch_size, pretrain_img_size // patch_size, class_token, drop_path_rate
        )
        self._out_features = ["last_feat"]
        self._out_feature_channels = {"last_feat": embed_dim}
        self._out_feature_strides = {"last_feat": patch_size}
        self.attach(stem, tuner, [embed_dim] * depth, frozen_eval, activation_checkpointing)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x, prompt = self.enter(x)
        x = x + self.positions(tuple(x.shape[1:3]))
        for i, block in enumerate(self.blocks):
            # IV-tuning 1.5: p0 for the first block, then each block's own input.
            prompt, x = x, block(x, self.block_adapters(i), x if prompt is None or i else prompt)
        return {"last_feat": x.permute(0, 3, 1, 2)}


class PlainViT(_ViT):
    """A plain ViT with absolute positions, as MAE, ImageNet and SETR use it.

    Args:
        stem, tuner: the plugins.
        img_size: side of the images behind `pos_embed`, in pixels.
        out_indices: indices of the blocks whose output is returned, as "block<i>".
        class_token: prepend a cls token.
        final_norm: end with a LayerNorm (applied to the last block's tap).
        frozen_eval, activation_checkpointing: see :meth:`Trunk.attach`.

    Forward: (B, 3 or 6, H, W) float -> {"block<i>": (B, C, H/patch, W/patch)} for each tap.
    """

    def __init__(
        self,
        stem: Stem,
        tuner: Tuner,
        img_size: int = 224,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        out_indices: Sequence[int] = (11,),
        class_token: bool = True,
        final_norm: bool = False,
        frozen_eval: bool = True,
        activation_checkpointing: str | None = None,
    ):
        super().__init__()
        unknown = [i for i in out_indices if not 0 <= i < depth]
        if unknown:
            raise UserError(
                f"out_indices names block {unknown[0]}, the trunk has {depth}: give indices below it"
            )

        def block(i, drop_path):
            return self._block(embed_dim, num_heads, mlp_ratio, drop_path)

        self._build(block, embed_dim, depth, patch_size, img_size // patch_size, class_token, drop_path_rate)
        self.cls_token = (
            nn.Parameter(trunc_normal_(torch.zeros(1, 1, embed_dim), std=0.02)) if class_token else None
        )
        self.norm = LayerNorm(embed_dim) if final_norm else nn.Identity()
        self.out_indices = tuple(out_indices)
        self._out_features = [f"block{i}" for i in self.out_indices]
        self._out_feature_channels = dict.fromkeys(self._out_features, embed_dim)
        self._out_feature_strides = dict.fromkeys(self._out_features, patch_size)
        self.attach(stem, tuner, [embed_dim] * depth, frozen_eval, activation_checkpointing)

    def _block(self, dim: int, num_heads: int, mlp_ratio: float, drop_path: float) -> OpenBlock:
        return PlainBlock(
            dim, num_heads, mlp_ratio=mlp_ratio, qkv_bias=True, drop_path=drop_path, norm_layer=LayerNorm
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x, prompt = self.enter(x)
        size = tuple(x.shape[1:3])
        x = (x + self.positions(size)).flatten(1, 2)
        if self.prefix:
            x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1), x], 1)
        features = {}
        last = len(self.blocks) - 1
        for i, block in enumerate(self.blocks):
            adapters = self.block_adapters(i)
            carried = x[:, self.prefix :].unflatten(1, size) if prompt is None or i else prompt
            x = block(x, adapters and BypassPrefix(adapters, size, self.prefix), carried)
            if i in self.out_indices:
                y = self.norm(x) if i == last else x
                features[f"block{i}"] = y[:, self.prefix :].unflatten(1, size).permute(0, 3, 1, 2)
        return features
