"""How far the outputs of a file are from those of its model, and how far they may be."""

# ruff: noqa: E402 (detectron2 is prepared before anything imports it)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .. import compat

compat.prepare()

import numpy as np
import torch
from detectron2.layers import paste_masks_in_image
from detectron2.structures import Instances
from torchvision.ops import box_iou

# Only boxes above this score are compared; those within the margin may be on either side of a threshold.
SCORE, MARGIN = 0.05, 0.005
MANY = 10  # detections of the model that a file cannot all lack by rounding
# Rounding can swap rows of nearly equal rank, and the last one that is still in. Of all rows, this share has
# to be on both sides, within so many times the error that other outputs may have: queries of DINO attend to
# each other, so that two that are swapped change all others a little.
ROWS, ROOM = 0.95, 10


@dataclass(frozen=True)
class Limits:
    """What may differ: errors relative to the largest value, and the least IoU of matched boxes and masks.

    Attributes:
        share: of all boxes, how many need a partner. Half precision can move one across the threshold of
            non-maximum suppression, which changes what is left of its neighbors.
    """

    error: float
    iou: float
    score: float
    pixels: float
    share: float


LIMITS = {"fp32": Limits(1e-4, 0.99, 1e-3, 1e-3, 1.0), "fp16": Limits(2e-2, 0.95, 2e-2, 2e-2, 0.98)}
# The share where queries get their content by rank: a large DINO gives out hundreds of ranks, and even the
# last digits of float32 swap some of them.
REORDERED = 0.99


@dataclass
class Comparison:
    """The worst differences over all pairs.

    Attributes:
        errors: largest difference of each output, relative to its largest value.
        pixels: share of pixels whose class differs; None without label maps.
        rows, matched_rows: rows of outputs that are ordered by rank, and those that are on both sides.
        row_errors: as `errors`, of matched rows.
        boxes, matched: boxes above the score on either side, and those that have a partner on the other one.
        iou: the least IoU of partners.
        score: the largest difference of their scores.
        broken: pairs whose boxes or scores are not finite, or absent where the model has many.
        both_masks, any_mask: pixels in the masks of both partners, and in that of at least one.
    """

    limits: Limits
    pairs: int = 0
    errors: dict[str, float] = field(default_factory=dict)
    pixels: float | None = None
    rows: int = 0
    matched_rows: int = 0
    row_errors: dict[str, float] = field(default_factory=dict)
    boxes: int = 0
    matched: int = 0
    iou: float = 1.0
    score: float = 0.0
    both_masks: int = 0
    any_mask: int = 0
    broken: int = 0

    def lines(self) -> list[str]:
        """What was found, one line for each kind of output."""
        found = [
            f"{name}: relative error {error:.1e}" for name, error in (self.errors | self.row_errors).items()
        ]
        if self.pixels is not None:
            found.append(f"label map: {self.pixels:.2%} of the pixels differ")
        if self.rows:
            found.append(f"rows: {self.matched_rows} of {self.rows} matched")
        if not self.boxes and not found:
            found.append(f"boxes: none has a score above {SCORE:g}, so that none was compared")
        elif self.boxes:
            found.append(
                f"boxes: {self.matched} of {self.boxes} matched, least IoU {self.iou:.4f}, scores within "
                f"{self.score:.1e}"
            )
        if self.any_mask:
            found.append(f"masks: IoU {self.both_masks / self.any_mask:.4f}")
        return found

    def failures(self) -> list[str]:
        """What lies beyond the limits."""
        limits = self.limits
        failed = [
            f"{name} differs by {error:.1e}, at most {limits.error:g} is allowed"
            for name, error in self.errors.items()
            if not error <= limits.error
        ]
        if self.pixels is not None and self.pixels > limits.pixels:
            failed.append(f"{self.pixels:.2%} of the label map differ")
        if self.matched_rows < ROWS * self.rows:
            failed.append(f"{self.rows - self.matched_rows} of {self.rows} rows have no partner")
        if self.matched < limits.share * self.boxes:
            failed.append(
                f"{self.boxes - self.matched} of {self.boxes} boxes have no partner of their class with an "
                f"IoU of {limits.iou:g} and a score within {limits.score:g}"
            )
        if self.broken:
            failed.append(
                f"{self.broken} pairs have boxes that are not finite, or none where the model has some"
            )
        if self.both_masks < limits.iou * self.any_mask:
            failed.append(f"masks overlap by {self.both_masks / self.any_mask:.4f}")
        return failed

    def add(self, name: str, have: np.ndarray, want: np.ndarray) -> None:
        """Compare an output value by value; label maps by the share of equal pixels."""
        if name == "label_map":
            self.pixels = max(self.pixels or 0.0, float((want != have).mean()))
        else:
            difference = np.abs(have.astype(np.float64) - want).max() / _scale(want)
            # Unlike max, np.maximum keeps NaN, which no limit allows.
            self.errors[name] = float(np.maximum(self.errors.get(name, 0.0), difference))

    def add_rows(self, have: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray]) -> None:
        """Compare outputs (B, N, ...) whose rows are in the order of a score: each with the nearest one.

        A row is near if all its outputs are.
        """
        scales = {name: _scale(value) for name, value in want.items()}
        a, b = (
            torch.cat(
                [torch.from_numpy(side[n]).double().flatten(2) / scale for n, scale in scales.items()], -1
            )
            for side in (want, have)
        )
        widths = [int(np.prod(value.shape[2:])) for value in want.values()]
        near = ROOM * self.limits.error
        for wanted, found in zip(a, b, strict=True):
            distance = torch.cdist(wanted, found, p=torch.inf)
            nearest = distance.argmin(1)
            clear = distance.gather(1, nearest[:, None])[:, 0] <= near
            self.rows += 2 * len(wanted)
            self.matched_rows += int(clear.sum()) + int((distance.amin(0) <= near).sum())
            errors = (wanted - found[nearest]).abs()[clear].split(widths, -1)
            for name, error in zip(want, errors, strict=True):
                largest = float(error.max()) if error.numel() else 0.0
                self.row_errors[name] = max(self.row_errors.get(name, 0.0), largest)

    def add_detections(self, have: Mapping[str, np.ndarray], want: Instances) -> None:
        """Give every box of either side a partner on the other side, the best one first.

        Partners have the same class, overlap, and have nearly the same score.

        Args:
            have: the file's outputs for one image, with their padding.
            want: what the model detects.
        """
        count, room = int(have["count"]), len(have["scores"])
        finite = all(np.isfinite(have[name][:count]).all() for name in ("boxes", "scores"))
        self.broken += not finite or (count == 0 and len(want) >= MANY)
        found = Instances(
            want.image_size,
            **{name: torch.from_numpy(have[name][:count].copy()) for name in have if name != "count"},
        )
        wanted = Instances(
            want.image_size,
            boxes=want.pred_boxes.tensor,
            scores=want.scores,
            labels=want.pred_classes,
            **({"masks": want.pred_masks} if want.has("pred_masks") else {}),
        )
        if "masks" in have:
            found.masks = paste_masks_in_image(found.masks, found.boxes, want.image_size)
        for a, b in ((wanted, found), (found, wanted)):
            # Where there is no room for more, the last ones are ordered by rounding.
            least = max(SCORE, float(b.scores.min())) if len(b) == room else SCORE
            a = a[a.scores > least + MARGIN]
            self.boxes += len(a)
            if not len(b):
                continue
            overlap = box_iou(a.boxes, b.boxes)
            overlap[a.labels[:, None] != b.labels] = -1.0
            # Written so that NaN is no partner of anything.
            overlap[~((a.scores[:, None] - b.scores).abs() <= self.limits.score)] = -1.0
            for i in range(len(a)):
                best, j = overlap[i].max(0)
                if best >= self.limits.iou:
                    overlap[:, j] = -1.0
                    self._note_partners(a[i], b[int(j)], float(best))

    def _note_partners(self, a: Instances, b: Instances, iou: float) -> None:
        self.matched += 1
        self.iou = min(self.iou, iou)
        self.score = max(self.score, float((a.scores - b.scores).abs()))
        if a.has("masks"):
            self.both_masks += int((a.masks & b.masks).sum())
            self.any_mask += int((a.masks | b.masks).sum())


def _scale(values: np.ndarray) -> float:
    return float(np.abs(values).max(initial=0.0)) or 1.0
