"""Vision transformers as trunks, from timm's blocks: plain ViT and ViTDet (arXiv 2203.16527)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import trunc_normal_
from timm.models import vision_transformer, vision_transformer_sam
from timm.models.swin_transformer import window_partition, window_reverse
from torch import Tensor, nn

from ..errors import UserError
from ..tuning import Tuner
from ..tuning.options import need_number, need_rate, need_whole
from ..tuning.sites import PatchTokenAdapters
from ..tuning.stems import Stem
from .attention.relpos import RelPosAttention
from .block import OpenBlock
from .patches import PatchEmbed, missing_to, pad_end, resize_positions
from .stream_norm import StreamNorm
from .trunk import Trunk

LayerNorm = partial(StreamNorm, eps=1e-6)


class PlainBlock(OpenBlock, vision_transformer.Block):
    """A plain ViT block on tokens, (B, N, C)."""


class WindowBlock(OpenBlock, vision_transformer_sam.Block):
    """A ViTDet block on maps, (B, H, W, C); windows are padded with zeros at the right and the bottom."""

    attn_backends = ("auto", "plain", "fused", "triton")

    def __init__(self, dim: int, num_heads: int, **kwargs):
        super().__init__(dim, num_heads, **kwargs)
        self.attn = RelPosAttention(
            dim,
            num_heads,
            use_rel_pos=kwargs["use_rel_pos"],
            input_size=(self.window_size,) * 2 if self.window_size else kwargs["input_size"],
        )

    def set_attn_backend(self, backend: str) -> None:
        self.attn.backend = backend

    def attend(self, x: Tensor) -> Tensor:  # type: ignore[override]
        if not self.window_size:
            return self.attn(x)
        height, width = x.shape[1:3]
        window = self.window_size, self.window_size
        x = pad_end(x, missing_to(window[0], height), missing_to(window[1], width), channels_last=True)
        windows = self.attn(window_partition(x, window))
        return window_reverse(windows, window, *x.shape[1:3])[:, :height, :width].contiguous()


class VisionTransformer(Trunk):
    """What plain ViT and ViTDet share: patch embedding, absolute positions, blocks of one width.

    A subclass calls :meth:`build` once it is ready to make blocks, and :meth:`Trunk.attach` at the end.

    Args:
        patch_size: side of a patch, in pixels.
        embed_dim: C, the width.
        depth: number of blocks.
        num_heads: attention heads of every block.
        mlp_ratio: width of the MLP's hidden layer, as a multiple of C.
        drop_path_rate: of the last block; it grows from 0 at the first.
        class_token: `pos_embed` carries a slot for a class token.
        options: those of :class:`ivtuning.backbones.trunk.Trunk`.

    Attributes:
        slots: how many tokens in front of the patches `pos_embed` has a slot for.
        antialias: resize positions as timm does, with a filter against aliasing.
    """

    antialias = False

    def __init__(
        self,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        class_token: bool = True,
        **options,
    ):
        super().__init__(**options)
        self.embed_dim, self.depth, self.num_heads, self.mlp_ratio = embed_dim, depth, num_heads, mlp_ratio
        self.slots = int(class_token)
        self.drop_path_rate = drop_path_rate
        self.patch_embed = PatchEmbed(patch_size, embed_dim)

    def build(self, grid: int | None, make_block: Callable[[int, float], OpenBlock]) -> None:
        """Make `pos_embed` for a square of `grid` patches, and blocks by ``make_block(index, drop_path)``.

        Without a `grid` there is no `pos_embed`.
        """
        self.pos_embed = None if grid is None else self.token(grid * grid + self.slots)
        need_rate("drop_path_rate", self.drop_path_rate)
        rates = torch.linspace(0, self.drop_path_rate, self.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(make_block(i, rate) for i, rate in enumerate(rates))
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def token(self, count: int = 1) -> nn.Parameter:
        """Initialized tokens or positions, (1, count, C)."""
        return nn.Parameter(trunc_normal_(torch.zeros(1, count, self.embed_dim), std=0.02))

    def set_outputs(self, names: Sequence[str]) -> None:
        """Declare the feature maps, all of the trunk's width and stride, as detectron2 wants them."""
        self._out_features = list(names)
        self._out_feature_channels = dict.fromkeys(names, self.embed_dim)
        self._out_feature_strides = dict.fromkeys(names, self.size_divisibility)

    def check_indices(self, key: str, indices: Sequence[int]) -> None:
        """Raise UserError where the option `key` names a block that does not exist."""
        unknown = [i for i in indices if not 0 <= i < self.depth]
        if unknown:
            raise UserError(
                f"{key} names block {unknown[0]}, the trunk has {self.depth}: give indices below it"
            )

    @property
    def size_divisibility(self) -> int:
        return self.patch_embed.patch_size[0]

    def positions(self, size: tuple[int, int]) -> Tensor:
        """Position embedding of the patches, resized bicubically to `size`: (1, h, w, C)."""
        patches = self.pos_embed[:, self.slots :]
        side = round(patches.shape[1] ** 0.5)
        return resize_positions(patches.unflatten(1, (side, side)), size, self.antialias)


class ViTDet(VisionTransformer):
    """ViTDet's trunk: windowed blocks, a few global ones, decomposed relative positions, no final norm.

    Parameter names are those of detectron2's ViT. ViT-B at 1024 px has 85,889,024 base parameters.

    Args:
        stem, tuner: the plugins.
        img_size: side of the square, in pixels, that sizes the global blocks' position tables (inputs may
            have any size; tables are resized in the forward pass).
        window_size: side of the windows, in patches.
        global_blocks: indices of the blocks that attend globally; None: the last of each quarter.
        use_rel_pos: add relative positions to the attention scores.
        pretrain_img_size: side of the images behind `pos_embed`, in pixels.
        options: those of :class:`VisionTransformer`. `pos_embed` carries a slot for a class token by default,
            as MAE's does; the token itself is not used.

    Forward: (B, 3 or 6, H, W) float -> {"last_feat": (B, C, H/patch, W/patch)}.
    """

    def __init__(
        self,
        stem: Stem,
        tuner: Tuner,
        img_size: int = 1024,
        window_size: int = 14,
        global_blocks: Sequence[int] | None = None,
        use_rel_pos: bool = True,
        pretrain_img_size: int = 224,
        **options,
    ):
        super().__init__(**options)
        need_whole("window_size", window_size, least=0)
        if global_blocks is None:  # the last of each quarter
            global_blocks = [i for k in (1, 2, 3, 4) if (i := self.depth * k // 4 - 1) >= 0]
        self.check_indices("global_blocks", global_blocks)
        patch_size = self.size_divisibility

        def make_block(index: int, drop_path: float) -> WindowBlock:
            return WindowBlock(
                self.embed_dim,
                self.num_heads,
                mlp_ratio=self.mlp_ratio,
                drop_path=drop_path,
                norm_layer=LayerNorm,
                use_rel_pos=use_rel_pos,
                window_size=0 if index in global_blocks else window_size,
                input_size=(img_size // patch_size,) * 2,
            )

        self.build(pretrain_img_size // patch_size, make_block)
        self.set_outputs(["last_feat"])
        self.attach(stem, tuner, [self.embed_dim] * self.depth)

    @classmethod
    def shortened(cls, options: Mapping[str, Any], depth: int) -> dict[str, Any]:
        """See :meth:`Trunk.shortened`; the share of global blocks stays."""
        full = options["depth"]
        step = full // 4
        if depth % step or not step <= depth <= full:
            raise UserError(f"give a multiple of {step} up to {full}, every {step}th is global")
        return {"depth": depth, "global_blocks": range(step - 1, depth, step)}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x, prompt = self.enter(x)
        x = self.stream(x + self.positions(tuple(x.shape[1:3])))
        added = self.begin(x)
        for i, block in enumerate(self.blocks):
            # docs/method.md 1.5: p0 for the first block, then each block's own input.
            prompt = x if prompt is None or i else prompt
            (adapters,) = added.seeing(prompt, [i])
            x = block(x, adapters, prompt)
        return {"last_feat": x.permute(0, 3, 1, 2)}


class PlainViT(VisionTransformer):
    """A plain ViT with absolute positions, as MAE, ImageNet and SETR use it.

    Args:
        stem, tuner: the plugins.
        img_size: side of the images behind `pos_embed`, in pixels; None: there are no absolute positions.
        out_indices: indices of the blocks whose output is returned, as "block<i>". Blocks after the last of
            them hold the file's weights, but do not run, and nothing in them trains.
        final_norm: end with a LayerNorm, applied to the last block's output.
        reg_tokens: number of register tokens after the class token (arXiv 2309.16588). As in timm's models
            with registers, `pos_embed` then has no slot for the class token.
        init_values: what LayerScale starts from; None: the blocks have none.
        options: those of :class:`VisionTransformer`; with `class_token` a class token is prepended.

    Attributes:
        prefix: number of tokens in front of the patches. They pass through the blocks and are not returned.
        norm_layer: makes all norms.
        norm_everywhere: `final_norm` applies to all outputs.

    Forward: (B, 3 or 6, H, W) float -> {"block<i>": (B, C, H/patch, W/patch)}.
    """

    norm_layer = staticmethod(LayerNorm)
    norm_everywhere = False

    def __init__(
        self,
        stem: Stem,
        tuner: Tuner,
        img_size: int | None = 224,
        out_indices: Sequence[int] = (11,),
        final_norm: bool = False,
        reg_tokens: int = 0,
        init_values: float | None = None,
        **options,
    ):
        super().__init__(**options)
        self.check_indices("out_indices", out_indices)
        if not out_indices or list(out_indices) != sorted(set(out_indices)):
            raise UserError(f"out_indices={list(out_indices)}: give blocks in their order, each once")
        need_whole("reg_tokens", reg_tokens, least=0)
        if img_size is not None:
            need_whole("img_size", img_size, least=self.size_divisibility)
        if init_values is not None:
            need_number("init_values", init_values)
        self.init_values = init_values
        has_class, self.prefix = self.slots, self.slots + reg_tokens
        if reg_tokens or img_size is None:
            self.slots = 0
        grid = None if img_size is None else img_size // self.size_divisibility
        self.build(grid, lambda index, drop_path: self.make_block(drop_path))
        self.cls_token = self.token() if has_class else None
        self.reg_token = self.token(reg_tokens) if reg_tokens else None
        self.norm = self.norm_layer(self.embed_dim) if final_norm else nn.Identity()
        self.out_indices = tuple(out_indices)
        self.set_outputs([f"block{i}" for i in self.out_indices])
        self.attach(stem, tuner, [self.embed_dim] * (self.out_indices[-1] + 1))

    def unused(self) -> Iterator[nn.Module]:
        yield from super().unused()
        if self.out_indices[-1] < self.depth - 1 and not self.norm_everywhere:
            yield self.norm

    @classmethod
    def shortened(cls, options: Mapping[str, Any], depth: int) -> dict[str, Any]:
        """See :meth:`Trunk.shortened`; the last block's output is returned."""
        if not 1 <= depth <= options["depth"]:
            raise UserError(f"give 1 to {options['depth']}")
        return {"depth": depth, "out_indices": (depth - 1,)}

    def make_block(self, drop_path: float) -> OpenBlock:
        """One block."""
        return PlainBlock(**self.block_options(drop_path))

    def block_options(self, drop_path: float) -> dict[str, Any]:
        """What all kinds of blocks are made of."""
        return dict(
            dim=self.embed_dim,
            num_heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
            qkv_bias=True,
            init_values=self.init_values,
            drop_path=drop_path,
            norm_layer=self.norm_layer,
        )

    def attention_options(self, size: tuple[int, int]) -> dict[str, Tensor]:
        """What every block's attention needs besides its input, for a map of `size` patches."""
        return {}

    def tokens(self, x: Tensor) -> Tensor:
        """The first block's input, (B, prefix + h w, C), of the map `x`, (B, h, w, C)."""
        if self.pos_embed is not None:
            x = x + self.positions(tuple(x.shape[1:3]))
        front = []
        if self.cls_token is not None:
            front.append(self.cls_token + self.pos_embed[:, :1] if self.slots else self.cls_token)
        if self.reg_token is not None:
            front.append(self.reg_token)
        return torch.cat([*(token.expand(x.shape[0], -1, -1) for token in front), x.flatten(1, 2)], 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x, prompt = self.enter(x)
        size = tuple(x.shape[1:3])
        added = self.begin(x)
        x = self.stream(self.tokens(x))
        options = self.attention_options(size)
        features = {}
        last = len(self.blocks) - 1
        for i, block in enumerate(self.tuner.served(self)):
            # docs/method.md 1.5: p0 for the first block, then each block's own input.
            prompt = x[:, self.prefix :].unflatten(1, size) if prompt is None or i else prompt
            (adapters,) = added.seeing(prompt, [i])
            x = block(x, adapters and PatchTokenAdapters(adapters, size, self.prefix), prompt, **options)
            if i in self.out_indices:
                y = self.norm(x) if i == last or self.norm_everywhere else x
                features[f"block{i}"] = y[:, self.prefix :].unflatten(1, size).permute(0, 3, 1, 2)
        return features
