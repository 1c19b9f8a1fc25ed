"""Segmentation losses: cross-entropy, online hard example mining (OHEM), Dice, IoU, and their weighted sums.

Each is called with logits (B, K, H, W), of any floating type, and targets (B, H, W) int64: class ids 0..K-1,
and 255 for pixels that are ignored. It returns a scalar in float32 or float64. A batch without any labeled
pixel gives 0 and zero gradients.

With K = 1 the single logit is compared with a constant 0, so its sigmoid is the class's probability. No
target says "not this class", so such a model learns that every pixel has the class; see SemSegHead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.labels import IGNORE
from ...errors import UserError
from ...utils.precision import at_least_float32

Loss = Callable[[Tensor, Tensor], Tensor]


def check_targets(targets: Tensor, num_classes: int, where: str = "a batch") -> None:
    """Refuse ids that no class has.

    On CUDA, cross-entropy would end the process with a device-side assert. Check labels on the host: those on
    a device would have to be waited for.

    Args:
        targets: integers of any shape.
        where: what the message names, such as a file.

    Raises:
        UserError: an id that is neither 0..`num_classes`-1 nor 255.
    """
    wrong = (targets < 0) | ((targets >= num_classes) & (targets != IGNORE))
    if wrong.any():
        ids = ", ".join(map(str, targets[wrong].unique()[:3].tolist()))
        raise UserError(
            f"{where} has label {ids}, which is not one of the model's {num_classes} classes (0 to "
            f"{num_classes - 1}, {IGNORE} is ignored): set model.sem_seg_head.num_classes to the data set's"
        )


def with_rest(logits: Tensor) -> Tensor:
    """Logits in at least float32; a single class gets a second one, a constant 0, to be compared with."""
    logits = at_least_float32(logits)
    return torch.cat([logits, torch.zeros_like(logits)], 1) if logits.shape[1] == 1 else logits


class CrossEntropy(nn.Module):
    """Mean cross-entropy over the labeled pixels.

    (By default, mmsegmentation divides by all pixels, labeled or not.)

    Args:
        class_weights: a weight from 0 for each class, of a weighted mean as in torch.

    Raises:
        UserError: a negative weight; in the forward pass, a number of weights other than that of classes.
    """

    def __init__(self, class_weights: Sequence[float] | None = None):
        super().__init__()
        if class_weights is not None and min(class_weights) < 0:
            raise UserError(f"class_weights: {min(class_weights)} is negative: give weights from 0")
        weights = None if class_weights is None else torch.tensor(list(class_weights), dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        classes, valid = logits.shape[1], targets != IGNORE
        entropy = F.cross_entropy(with_rest(logits), targets, ignore_index=IGNORE, reduction="none")
        weights = self.selected(entropy.detach(), valid).to(entropy.dtype)
        if self.class_weights is not None:
            if len(self.class_weights) != classes:
                raise UserError(
                    f"class_weights: {len(self.class_weights)} numbers for {classes} classes: give one each"
                )
            weights = weights * self.class_weights.to(entropy.dtype)[targets.masked_fill(~valid, 0)]
        return (entropy * weights).sum() / weights.sum().clamp(min=torch.finfo(entropy.dtype).tiny)

    def selected(self, entropy: Tensor, valid: Tensor) -> Tensor:
        """The pixels that count, (B, H, W) bool: here all that are labeled."""
        return valid


class OHEM(CrossEntropy):
    """Cross-entropy over hard pixels (online hard example mining, arXiv 1604.03540, applied to pixels).

    A labeled pixel is hard where its own class has a probability below `threshold`. In any case, the
    `min_kept` hardest pixels per image count, taken over the whole batch (as in mmsegmentation).

    Args:
        threshold: probability, above 0 and at most 1.
        min_kept: pixels per image, at least 1.
        class_weights: as in :class:`CrossEntropy`; they do not change which pixels are hard.

    Raises:
        UserError: a number outside its range.
    """

    def __init__(
        self,
        threshold: float = 0.7,
        min_kept: int = 100_000,
        class_weights: Sequence[float] | None = None,
    ):
        super().__init__(class_weights)
        if not 0 < threshold <= 1:
            raise UserError(f"OHEM: threshold={threshold} is not a probability: give one in (0, 1]")
        if min_kept < 1:
            raise UserError(f"OHEM: min_kept={min_kept}: keep at least 1 pixel per image")
        self.threshold, self.min_kept = threshold, min_kept

    def selected(self, entropy: Tensor, valid: Tensor) -> Tensor:
        count = min(self.min_kept * len(entropy), entropy.numel())
        # Entropies are not negative, so unlabeled pixels come last. Nothing here waits for the device.
        smallest = entropy.masked_fill(~valid, -1.0).flatten().topk(count, sorted=False).values.min()
        return valid & ((entropy > -math.log(self.threshold)) | (entropy >= smallest))


class Dice(nn.Module):
    """Soft Dice loss of softmax probabilities (V-Net, arXiv 1606.04797, section 3).

    ``1 - (2 sum(p g) + smooth) / (sum(p^2) + sum(g^2) + smooth)`` over the labeled pixels of an image,
    averaged over classes and images. A class that an image lacks counts too: its probability should be 0.

    Args:
        smooth: above 0; prevents a division by zero for classes without pixels.

    Raises:
        UserError: `smooth` is not above 0.
    """

    def __init__(self, smooth: float = 1.0):
        super().__init__()
        if smooth <= 0:
            raise UserError(f"Dice: smooth={smooth}: give a number above 0")
        self.smooth = smooth

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        valid = (targets != IGNORE).unsqueeze(1)
        p = with_rest(logits).softmax(1)[:, : logits.shape[1]] * valid
        truth = torch.zeros_like(p).scatter_(
            1, targets.unsqueeze(1).masked_fill(~valid, 0), valid.to(p.dtype)
        )
        overlap = (p * truth).sum((2, 3))
        total = p.square().sum((2, 3)) + truth.sum((2, 3))
        return (1 - (2 * overlap + self.smooth) / (total + self.smooth)).mean()


class IoU(nn.Module):
    """Soft IoU loss of softmax probabilities, as salient objects are trained with.

    ``1 - (sum(p g) + smooth) / (sum(p + g - p g) + smooth)`` over the labeled pixels of an image, averaged
    over images and classes.

    Args:
        classes: ids of the classes that count; None: all. Of two classes, (1,) is the salient one, and
            CrossEntropy is then the binary cross-entropy.
        smooth: above 0; an image without a class has a loss of 0 where none is predicted.

    Raises:
        UserError: no classes, or `smooth` is not above 0; in the forward pass, a class that the model lacks.
    """

    def __init__(self, classes: Sequence[int] | None = None, smooth: float = 1.0):
        super().__init__()
        if smooth <= 0:
            raise UserError(f"IoU: smooth={smooth}: give a number above 0")
        if classes is not None and (not len(classes) or min(classes) < 0):
            raise UserError(f"IoU: classes={list(classes)}: give ids of classes from 0, or None for all")
        self.classes, self.smooth = None if classes is None else tuple(classes), smooth

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        count = logits.shape[1]
        chosen = range(count) if self.classes is None else self.classes
        if max(chosen) >= count:
            raise UserError(f"IoU: classes={list(chosen)}, but the model has {count}: give ids below that")
        valid = targets != IGNORE
        probabilities = with_rest(logits).softmax(1)
        losses = []
        for label in chosen:
            p, truth = probabilities[:, label] * valid, (targets == label).to(probabilities.dtype)
            overlap = (p * truth).sum((1, 2))
            union = p.sum((1, 2)) + truth.sum((1, 2)) - overlap
            losses.append(1 - (overlap + self.smooth) / (union + self.smooth))
        return torch.stack(losses).mean()


class Sum(nn.Module):
    """Weighted sum of losses.

    Args:
        losses: the terms.
        weights: one for each; None: all 1.

    Raises:
        UserError: no losses, or another number of weights.
    """

    def __init__(self, losses: Sequence[nn.Module], weights: Sequence[float] | None = None):
        super().__init__()
        self.weights = tuple(weights) if weights is not None else (1.0,) * len(losses)
        if not losses or len(self.weights) != len(losses):
            raise UserError(f"Sum: {len(losses)} losses and {len(self.weights)} weights: give one for each")
        self.losses = nn.ModuleList(losses)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        terms = zip(self.weights, self.losses, strict=True)
        return sum(weight * loss(logits, targets) for weight, loss in terms)
