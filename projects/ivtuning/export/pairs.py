"""Pairs on which a file is compared with its model: those of a config's test set, or synthetic ones."""

# ruff: noqa: E402 (detectron2 is prepared before anything imports it)

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, TypeAlias

from .. import compat

compat.prepare()

import torch
import torch.nn.functional as F
from detectron2.data import DatasetCatalog
from omegaconf import DictConfig
from torch import Tensor, nn

from ..config import build, set_names
from ..data.catalog import is_present
from ..data.modalities import IMAGE_KEYS
from ..errors import UserError

# A pair as the file takes it: visible and infrared, (3, H, W) uint8 each, None where one is missing.
Pair: TypeAlias = tuple[Tensor | None, Tensor | None]


def synthetic_pairs(count: int, size: tuple[int, int], both: bool = True) -> list[Pair]:
    """Pairs of smooth noise, always the same ones; visible images alone unless `both`."""
    generator = torch.Generator().manual_seed(0)
    pairs: list[Pair] = []
    for _ in range(count):
        coarse = torch.rand(2, 3, 9, 12, generator=generator) * 255
        noise = 20 * torch.randn(2, 3, *size, generator=generator)
        images = (F.interpolate(coarse, size, mode="bicubic") + noise).clamp(0, 255).byte()
        pairs.append((images[0], images[1] if both else None))
    return pairs


def pairs_of_config(cfg: DictConfig, model: nn.Module, count: int, size: tuple[int, int]) -> list[Pair]:
    """The first pairs of the config's test set, as its mapper gives them, resized to `size`.

    There are none where the set is not on this machine, or its images cannot be read.
    """
    if not count:
        return []
    names = set_names(cfg, "test")
    both = model.pixel_mean.numel() > 3
    pairs: list[Pair] = []
    with contextlib.suppress(UserError, OSError):
        mapper = build(cfg, "dataloader.test.mapper")
        for record in (r for name in names if is_present(name) for r in DatasetCatalog.get(name)):
            sample = mapper(record)
            images = [_resized(sample.get(key), size) for key in IMAGE_KEYS[: 1 + both]]
            if all(image is not None for image in images):
                pairs.append((images[0], images[1] if both else None))
            if len(pairs) == count:
                break
    return pairs


def samples(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """The pairs as a model takes them; a missing image has no key."""
    batch = []
    for i, pair in enumerate(pairs):
        images = {key: image for key, image in zip(IMAGE_KEYS, pair, strict=True) if image is not None}
        height, width = next(iter(images.values())).shape[-2:]
        batch.append({**images, "height": height, "width": width, "file_name": f"pair {i}"})
    return batch


def _resized(image: Tensor | None, size: tuple[int, int]) -> Tensor | None:
    if image is None:
        return None
    resized = F.interpolate(image[None].float(), size, mode="bilinear", align_corners=False, antialias=True)
    return resized[0].round().clamp(0, 255).byte()
