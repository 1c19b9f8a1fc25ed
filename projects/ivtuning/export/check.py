"""Compares an exported file with the model that it was made of."""

# ruff: noqa: E402 (detectron2 is prepared before anything imports it)

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .. import compat

compat.prepare()

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.data import DatasetCatalog
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torchvision.ops import box_iou

from ..config import build
from ..data.catalog import is_present
from ..data.modalities import IMAGE_KEYS
from ..errors import UserError
from .graph import ExportedModel
from .options import Options

# A pair as the file takes it: visible and infrared, (3, H, W) uint8 each, None where one is missing.
Pair = tuple[Tensor | None, Tensor | None]
Run = Callable[[Sequence[Pair]], Mapping[str, np.ndarray]]
# Only boxes above this score are compared; those within the margin may be on either side of a threshold.
SCORE, MARGIN = 0.05, 0.005


@dataclass(frozen=True)
class Limits:
    """What may differ: errors relative to the largest value, and the least IoU of matched boxes."""

    error: float
    iou: float
    score: float
    pixels: float


LIMITS = {"fp32": Limits(1e-4, 0.99, 1e-3, 1e-3), "fp16": Limits(2e-2, 0.9, 3e-2, 2e-2)}


@dataclass
class Comparison:
    """The worst differences over all pairs.

    Attributes:
        errors: largest difference of each output, relative to its largest value.
        pixels: share of pixels whose class differs.
        boxes, matched: boxes above the score, and those that have a partner in the file's detections.
        iou: the least IoU of partners.
        score: the largest difference of their scores.
    """

    pairs: int = 0
    errors: dict[str, float] | None = None
    pixels: float = 0.0
    boxes: int = 0
    matched: int = 0
    iou: float = 1.0
    score: float = 0.0

    def lines(self) -> list[str]:
        """What was found, one line for each kind of output."""
        found = [f"{name}: relative error {error:.1e}" for name, error in (self.errors or {}).items()]
        if self.boxes or self.matched or not found:
            found.append(
                f"boxes: {self.matched} of {self.boxes} matched, least IoU {self.iou:.4f}, scores within "
                f"{self.score:.1e}"
            )
        return found

    def failures(self, limits: Limits) -> list[str]:
        """What lies beyond the limits."""
        failed = [
            f"{name} differs by {error:.1e}, at most {limits.error:g} is allowed"
            for name, error in (self.errors or {}).items()
            if not error <= limits.error
        ]
        if self.pixels > limits.pixels:
            failed.append(f"{self.pixels:.2%} of the label map differ")
        if self.matched < self.boxes:
            failed.append(f"{self.boxes - self.matched} of {self.boxes} boxes have no partner")
        if self.score > limits.score:
            failed.append(f"scores differ by {self.score:.1e}, at most {limits.score:g} is allowed")
        return failed


def compare(reference: ExportedModel, run: Run, pairs: Sequence[Pair], options: Options) -> Comparison:
    """Run all `pairs` through both, in batches of the file's size, and compare what they give.

    Args:
        reference: computes the outputs in PyTorch.
        run: computes them by the file.
    """
    result = Comparison(errors={})
    step = 3 if "batch" in options.dynamic else options.batch
    for start in range(0, len(pairs), step):
        some = pairs[start : start + step]
        expected = dict(zip(reference.names, outputs_of(reference, reference.inputs, some), strict=True))
        actual = run(some)
        result.pairs += len(some)
        if "count" in expected:
            for i in range(len(some)):
                _match(result, _image(expected, i), _image(actual, i), LIMITS[options.precision])
            continue
        for name, want in expected.items():
            have = actual[name]
            if name == "label_map":
                result.pixels = max(result.pixels, float((want != have).mean()))
            else:
                error = _relative(have, want)
                result.errors[name] = max(result.errors.get(name, 0.0), error)
    return result


def require(comparison: Comparison, options: Options) -> None:
    """Raise UserError where the differences lie beyond the limits of the precision."""
    failed = comparison.failures(LIMITS[options.precision])
    if failed:
        raise UserError(f"the file does not compute what the model does: {'; '.join(failed)}")


def synthetic_pairs(count: int, size: tuple[int, int], pair: bool, missing: bool) -> list[Pair]:
    """Pairs of smooth noise, always the same; the last of several lacks infrared if `missing` says so."""
    generator = torch.Generator().manual_seed(0)
    pairs: list[Pair] = []
    for _ in range(count):
        coarse = torch.rand(2, 3, 9, 12, generator=generator) * 255
        smooth = F.interpolate(coarse, size, mode="bicubic") + 20 * torch.randn(
            2, 3, *size, generator=generator
        )
        images = smooth.clamp(0, 255).byte()
        pairs.append((images[0], images[1] if pair else None))
    if missing and pair and count > 1:
        pairs[-1] = (pairs[-1][0], None)
    return pairs


@torch.inference_mode()
def outputs_of(graph: Callable, inputs: Sequence[str], pairs: Sequence[Pair]) -> list[np.ndarray]:
    """What `graph` gives for a batch of pairs; `inputs` are the names of what it takes."""
    images = [name for name in inputs if name != "missing"]
    columns = [[pair[i] for pair in pairs] for i in range(len(images))]
    black = torch.zeros_like(next(x for column in columns for x in column if x is not None))
    tensors = [torch.stack([black if x is None else x for x in column]) for column in columns]
    if "missing" in inputs:
        tensors.append(torch.tensor([[x is None for x in pair] for pair in pairs]))
    return [output.numpy() for output in graph(*tensors)]


def _relative(have: np.ndarray, want: np.ndarray) -> float:
    scale = float(np.abs(want).max()) or 1.0
    return float(np.abs(have.astype(np.float64) - want).max()) / scale


def _image(outputs: Mapping[str, np.ndarray], index: int) -> dict[str, Tensor]:
    """The detections of one image, without padding."""
    count = int(outputs["count"][index])
    return {
        name: torch.from_numpy(outputs[name][index][:count].copy()) for name in ("boxes", "scores", "labels")
    }


def _match(result: Comparison, want: dict[str, Tensor], have: dict[str, Tensor], limits: Limits) -> None:
    """Give every box of either side a partner of the same class on the other side, the best one first."""
    for a, b in ((want, have), (have, want)):
        clear = a["scores"] > SCORE + MARGIN
        result.boxes += int(clear.sum())
        if not len(b["scores"]):
            continue
        overlap = box_iou(a["boxes"][clear], b["boxes"])
        overlap[a["labels"][clear][:, None] != b["labels"]] = -1.0
        for i, score in enumerate(a["scores"][clear].tolist()):
            best, j = overlap[i].max(0)
            if best >= limits.iou:
                result.matched += 1
                result.iou = min(result.iou, float(best))
                result.score = max(result.score, abs(score - float(b["scores"][j])))
                overlap[:, j] = -1.0


def pairs_of_config(cfg: DictConfig, model: nn.Module, count: int, size: tuple[int, int]) -> list[Pair]:
    """The first pairs of the config's test set, as its mapper gives them, resized to `size`.

    There are none where the set is not on this machine, or its images cannot be read.
    """
    if not count:
        return []
    names = OmegaConf.select(cfg, "dataloader.test.dataset.names", default=())
    names = [names] if isinstance(names, str) else list(names or ())
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


def _resized(image: Tensor | None, size: tuple[int, int]) -> Tensor | None:
    if image is None:
        return None
    resized = F.interpolate(image[None].float(), size, mode="bilinear", align_corners=False, antialias=True)
    return resized[0].round().clamp(0, 255).byte()
