"""Swin (arXiv 2103.14030) as a trunk: timm's modules, windows as in the official detection code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from timm.layers import trunc_normal_
from timm.models import swin_transformer
from timm.models.swin_transformer import PatchMerging, window_partition, window_reverse
from torch import Tensor, nn

from ..errors import UserError
from ..tuning import Tuner
from ..tuning.options import need_rate, need_whole
from ..tuning.stems import Stem
from .attention.window import SwinAttention
from .block import OpenBlock
from .patches import PatchEmbed, missing_to, pad_end
from .stream_norm import StreamNorm
from .trunk import Trunk

_T = dict(embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), window_size=7)
_B = dict(embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32), window_size=7)
_L = dict(embed_dim=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48), window_size=7)
# The published sizes: window 7 for weights of 224 px, 12 for those of 384 px.
SWIN_SIZES: dict[str, dict] = {
    "swin_t": _T,
    "swin_s": {**_T, "depths": (2, 2, 18, 2)},
    "swin_b": _B,
    "swin_b_w12": {**_B, "window_size": 12},
    "swin_l": _L,
    "swin_l_w12": {**_L, "window_size": 12},
}


# A fixed input size needs one mask for each stage; with random sizes, old ones should not fill the memory.
@lru_cache(maxsize=8)
def shift_mask(
    height: int, width: int, window: int, shift: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """The attention mask of shifted windows, which hides what was no neighbor before the map was rolled.

    Args:
        height, width: of the padded map, multiples of `window`.

    Returns:
        (windows, window**2, window**2): 0 where query and key were neighbors before the roll, else -100.
    """

    def band(size: int) -> Tensor:
        position = torch.arange(size, device=device)
        return (position >= size - window).long() + (position >= size - shift).long()

    zone = 3 * band(height)[:, None] + band(width)
    zone = window_partition(zone[None, ..., None], (window, window)).flatten(1)
    return torch.where(zone[:, :, None] == zone[:, None, :], 0.0, -100.0).to(dtype)


class SwinBlock(OpenBlock, swin_transformer.SwinTransformerBlock):
    """A Swin block on maps, (B, H, W, C) of any size.

    The map is padded with zeros at the right and the bottom and then rolled, as the official detection code
    and detectron2 do. timm rolls and then pads, which gives other windows wherever something is padded.
    """

    def __init__(self, dim: int, num_heads: int, window_size: int, shift_size: int, **kwargs):
        # Maps have any size: no window shrinks to fit one, and no mask is stored for one.
        super().__init__(
            dim,
            input_resolution=window_size,
            num_heads=num_heads,
            window_size=window_size,
            shift_size=shift_size,
            always_partition=True,
            dynamic_mask=True,
            norm_layer=StreamNorm,
            **kwargs,
        )
        self.attn = SwinAttention(dim, num_heads, window_size=window_size)
        self.ls1 = self.ls2 = nn.Identity()

    def set_attn_backend(self, backend: str) -> None:
        self.attn.backend = backend

    def attend(self, x: Tensor) -> Tensor:  # type: ignore[override]
        height, width = x.shape[1:3]
        window, shift = self.window_size[0], self.shift_size[0]
        x = pad_end(x, missing_to(window, height), missing_to(window, width), channels_last=True)
        padded, mask = tuple(x.shape[1:3]), None
        if shift:
            x = x.roll((-shift, -shift), (1, 2))
            # A compiler's sizes may be symbols, and its tensors must not outlive it.
            make = shift_mask.__wrapped__ if torch.compiler.is_compiling() else shift_mask
            mask = make(*padded, window, shift, x.device, x.dtype)
        windows = window_partition(x, self.window_size).flatten(1, 2)
        windows = self.attn(windows, mask=mask).unflatten(1, self.window_size)
        x = window_reverse(windows, self.window_size, *padded)
        if shift:
            x = x.roll((shift, shift), (1, 2))
        return x[:, :height, :width]


class SwinStage(nn.Module):
    """Blocks of one width, every other one shifted, and the patch merging in front of the next stage."""

    def __init__(self, dim: int, num_heads: int, window_size: int, drop_paths: Sequence[float], merge: bool):
        super().__init__()
        self.blocks = nn.ModuleList(
            SwinBlock(dim, num_heads, window_size, window_size // 2 if i % 2 else 0, drop_path=rate)
            for i, rate in enumerate(drop_paths)
        )
        self.downsample = PatchMerging(dim, norm_layer=StreamNorm) if merge else None


class Swin(Trunk):
    """Swin as a trunk. Inputs and maps of any size are padded where patches, windows and merging need it.

    Parameter names are those of the official code and of detectron2's Swin. The prompt is the same in a whole
    stage (docs/method.md 1.5): the stem's in the first stage, later the stage's input.

    Args:
        stem, tuner: the plugins.
        embed_dim: C, the first stage's width; stage i has C * 2**i.
        depths, num_heads: blocks and heads of every stage. ``SWIN_SIZES`` has the published ones.
        window_size: side of the windows, in tokens.
        out_indices: stages whose output is returned. Stages after the last of them hold the file's weights,
            but do not run, and nothing in them trains.
        patch_size: side of a patch, in pixels.
        drop_path_rate: of the last block; it grows from 0 at the first.
        output_norms: a LayerNorm on every output, part of the base. ImageNet weights lack them; scale and
            shift are then 1 and 0, and stay so unless the tuner trains them.
        options: those of :class:`ivtuning.backbones.trunk.Trunk`.

    Forward: (B, 3 or 6, H, W) float -> {"p0": (B, C, H/4, W/4), "p1": (B, 2C, H/8, W/8), ...}, rounded up.
    """

    typical_size = (480, 640)

    def __init__(
        self,
        stem: Stem,
        tuner: Tuner,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        patch_size: int = 4,
        drop_path_rate: float = 0.0,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        output_norms: bool = True,
        **options,
    ):
        super().__init__(**options)
        stages = len(depths)
        if len(num_heads) != stages:
            raise UserError(f"depths has {stages} stages, num_heads {len(num_heads)}: give one for each")
        unknown = [i for i in out_indices if not 0 <= i < stages]
        if unknown:
            raise UserError(
                f"out_indices names stage {unknown[0]}, the trunk has {stages}: give indices below it"
            )
        if not out_indices:
            raise UserError(f"out_indices={list(out_indices)}: give the stages whose output is returned")
        need_whole("window_size", window_size)
        self.patch_embed = PatchEmbed(patch_size, embed_dim, nn.LayerNorm)
        need_rate("drop_path_rate", drop_path_rate)
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        widths = [embed_dim * 2**i for i in range(stages)]
        self.layers = nn.ModuleList(
            SwinStage(width, heads, window_size, [next(rates) for _ in range(depth)], i < stages - 1)
            for i, (width, depth, heads) in enumerate(zip(widths, depths, num_heads, strict=True))
        )
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.out_indices = tuple(sorted(out_indices))
        for i in self.out_indices:
            # Named by stage directly, as detectron2 names them.
            self.add_module(f"norm{i}", StreamNorm(widths[i]) if output_norms else nn.Identity())
        self._out_features = [f"p{i}" for i in self.out_indices]
        self._out_feature_channels = {f"p{i}": widths[i] for i in self.out_indices}
        self._out_feature_strides = {f"p{i}": patch_size * 2**i for i in self.out_indices}
        in_use = list(zip(widths, depths, strict=True))[: self.out_indices[-1] + 1]
        self.attach(stem, tuner, [width for width, depth in in_use for _ in range(depth)])

    def unused(self) -> Iterator[nn.Module]:
        yield from self.layers[self.out_indices[-1] + 1 :]
        if merging := self.layers[self.out_indices[-1]].downsample:
            yield merging

    @classmethod
    def shortened(cls, options: Mapping[str, Any], depth: int) -> dict[str, Any]:
        """See :meth:`Trunk.shortened`; the third stage loses blocks."""
        first, second, third, last = options["depths"]
        others = first + second + last
        if depth % 2 or not others + 2 <= depth <= others + third:
            raise UserError(f"give an even number from {others + 2} to {others + third}")
        return {"depths": (first, second, depth - others, last)}

    @property
    def blocks(self) -> list[SwinBlock]:
        """The blocks of all stages, in the order they run."""
        return [block for layer in self.layers for block in layer.blocks]

    def layer_id(self, name: str) -> int:
        """See :meth:`Trunk.layer_id`; a patch merging belongs to the last block before it."""
        parts = name.split(".")
        if parts[0] != "layers":
            return super().layer_id(name)
        before = sum(len(layer.blocks) for layer in self.layers[: int(parts[1])])
        if parts[2] == "blocks":
            return before + int(parts[3]) + 1
        return before + len(self.layers[int(parts[1])].blocks)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x, prompt = self.enter(x)
        x = self.stream(x)
        added = self.begin(x)
        features, first = {}, 0
        for i, layer in enumerate(self.layers):
            if i or prompt is None:
                prompt = x
            after = first + len(layer.blocks)
            for block, adapters in zip(layer.blocks, added.seeing(prompt, range(first, after)), strict=True):
                x = block(x, adapters, prompt)
            first = after
            if i in self.out_indices:
                features[f"p{i}"] = getattr(self, f"norm{i}")(x).permute(0, 3, 1, 2)
            if i == self.out_indices[-1]:
                break
            x = self.stream(layer.downsample(x))
        return features
