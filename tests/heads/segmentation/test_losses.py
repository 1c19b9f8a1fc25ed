"""Segmentation losses against plain float64 computations, pixel by pixel."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ivtuning.data.labels import IGNORE
from ivtuning.errors import UserError
from ivtuning.heads.segmentation.losses import OHEM, CrossEntropy, Dice, IoU, Sum, check_targets

LOSSES = {
    "plain": CrossEntropy,
    "weighted": lambda: CrossEntropy([2.0, 0.5, 1.0, 0.0]),
    "ohem": lambda: OHEM(0.4, 5),
    "dice": Dice,
    "iou": IoU,
    "sum": lambda: Sum([CrossEntropy(), Dice()], [1.0, 3.0]),
}


def maps(classes: int = 4, images: int = 2, size=(5, 7), ignored: float = 0.3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(classes)
    logits = 2 * torch.randn(images, classes, *size, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, classes, (images, *size), generator=generator)
    targets[torch.rand(targets.shape, generator=generator) < ignored] = IGNORE
    return logits, targets


def probability(logits: Tensor, targets: Tensor, b: int, y: int, x: int) -> float:
    """What the softmax gives the pixel's own class."""
    exponents = [math.exp(z) for z in logits[b, :, y, x].tolist()]
    return exponents[targets[b, y, x]] / sum(exponents)


def labeled_pixels(targets: Tensor) -> list[tuple[int, ...]]:
    return [tuple(i) for i in (targets != IGNORE).nonzero().tolist()]


@pytest.mark.parametrize("weights", [None, [2.0, 0.5, 1.0, 0.0]])
def test_cross_entropy(weights):
    logits, targets = maps()
    total = amount = 0.0
    for pixel in labeled_pixels(targets):
        weight = weights[targets[pixel]] if weights else 1.0
        total -= weight * math.log(probability(logits, targets, *pixel))
        amount += weight
    assert CrossEntropy(weights)(logits, targets).item() == pytest.approx(total / amount, rel=1e-12)


@pytest.mark.parametrize(
    ("threshold", "min_kept", "kept"),
    [
        (0.2, 1, "threshold"),  # more pixels are hard than must be kept
        (1e-6, 9, "minimum"),  # hardly any pixel is hard
        (0.2, 10_000, "all"),  # more must be kept than there are
        (1.0, 1, "all"),
    ],
)
def test_ohem(threshold, min_kept, kept):
    logits, targets = maps()
    chances = sorted(probability(logits, targets, *pixel) for pixel in labeled_pixels(targets))
    hard = [p for p in chances if p < threshold]
    if len(hard) < 2 * min_kept:  # for two images
        hard = chances[: 2 * min_kept]
    count = {"threshold": sum(p < 0.2 for p in chances), "minimum": 18, "all": len(chances)}[kept]
    assert len(hard) == count and (kept == "all" or 2 < count < len(chances))
    expected = -sum(map(math.log, hard)) / len(hard)
    assert OHEM(threshold, min_kept)(logits, targets).item() == pytest.approx(expected, rel=1e-12)


def test_ohem_weights_change_the_mean_and_not_the_choice():
    logits, targets = maps()
    weights = [2.0, 0.5, 1.0, 3.0]
    by_chance = sorted(labeled_pixels(targets), key=lambda pixel: probability(logits, targets, *pixel))[:6]
    total = sum(-weights[targets[p]] * math.log(probability(logits, targets, *p)) for p in by_chance)
    expected = total / sum(weights[targets[p]] for p in by_chance)
    assert OHEM(1e-6, 3, weights)(logits, targets).item() == pytest.approx(expected, rel=1e-12)


def test_ohem_sends_no_gradient_to_easy_pixels():
    logits, targets = maps()
    logits.requires_grad_()
    OHEM(1e-6, 3)(logits, targets).backward()
    assert (logits.grad.abs().sum(1) > 0).sum() == 6


@pytest.mark.parametrize("smooth", [1.0, 0.01])
def test_dice(smooth):
    logits, targets = maps()
    targets[0][targets[0] == 2] = 1  # a class that the first image lacks
    images, classes, height, width = logits.shape
    loss = 0.0
    for b in range(images):
        for c in range(classes):
            overlap = squares = 0.0
            for y in range(height):
                for x in range(width):
                    if targets[b, y, x] == IGNORE:
                        continue
                    exponents = [math.exp(z) for z in logits[b, :, y, x].tolist()]
                    p, g = exponents[c] / sum(exponents), float(targets[b, y, x] == c)
                    overlap += p * g
                    squares += p * p + g
            loss += 1 - (2 * overlap + smooth) / (squares + smooth)
    assert Dice(smooth)(logits, targets).item() == pytest.approx(loss / (images * classes), rel=1e-12)


def test_dice_is_0_for_a_perfect_map_and_its_gradient_is_right():
    logits, targets = maps(3, size=(2, 3))
    truth = torch.nn.functional.one_hot(targets.masked_fill(targets == IGNORE, 0), 3).movedim(-1, 1)
    assert Dice()(200.0 * truth.double(), targets).item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.gradcheck(lambda z: Dice()(z, targets), logits.requires_grad_())


@pytest.mark.parametrize("classes", [None, (1,), (0, 3)])
def test_iou(classes):
    logits, targets = maps()
    losses = []
    for b in range(len(logits)):
        for c in classes or range(4):
            overlap = total = 0.0
            for y, x in [pixel[1:] for pixel in labeled_pixels(targets) if pixel[0] == b]:
                exponents = [math.exp(z) for z in logits[b, :, y, x].tolist()]
                p, g = exponents[c] / sum(exponents), float(targets[b, y, x] == c)
                overlap += p * g
                total += p + g
            losses.append(1 - (overlap + 1) / (total - overlap + 1))
    assert IoU(classes)(logits, targets).item() == pytest.approx(sum(losses) / len(losses), rel=1e-12)
    assert torch.autograd.gradcheck(lambda z: IoU(classes)(z, targets), logits.requires_grad_())


def test_two_classes_are_binary_cross_entropy_and_iou():
    logits, targets = maps(2, ignored=0.0)
    salient, truth = logits[:, 1] - logits[:, 0], (targets == 1).double()
    p = salient.sigmoid()
    overlap, both = (p * truth).sum((1, 2)), (p + truth).sum((1, 2))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(salient, truth)
    expected = expected + (1 - (overlap + 1) / (both - overlap + 1)).mean()
    torch.testing.assert_close(Sum([CrossEntropy(), IoU([1])])(logits, targets), expected)


def test_sum():
    logits, targets = maps()
    expected = CrossEntropy()(logits, targets) + 3 * Dice()(logits, targets)
    torch.testing.assert_close(LOSSES["sum"]()(logits, targets), expected)
    torch.testing.assert_close(
        Sum([CrossEntropy(), Dice()])(logits, targets),
        CrossEntropy()(logits, targets) + Dice()(logits, targets),
    )


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_have_no_say(name):
    logits, targets = maps()
    logits.requires_grad_()
    loss = LOSSES[name]()(logits, targets)
    loss.backward()
    ignored = (targets == IGNORE).unsqueeze(1).expand_as(logits)
    assert not logits.grad[ignored].any() and logits.grad[~ignored].any()
    changed = logits.detach().masked_fill(ignored, 50.0)
    torch.testing.assert_close(LOSSES[name]()(changed, targets), loss.detach())


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_labels_gives_0_and_zero_gradients(name):
    logits = maps()[0].float().requires_grad_()
    loss = LOSSES[name]()(logits, torch.full((2, 5, 7), IGNORE))
    assert loss.item() == 0
    loss.backward()
    assert logits.grad is not None and not logits.grad.any()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_compared_in_float32(name, half):
    logits, targets = maps()
    logits = (logits * 1000).to(half)  # exponents beyond any half's range
    loss = LOSSES[name]()(logits, targets)
    assert loss.dtype == torch.float32 and loss.isfinite()
    assert loss.item() == LOSSES[name]()(logits.float(), targets).item()


def test_weights_of_absent_classes_alone_give_0():
    logits, _ = maps()
    assert CrossEntropy([0.0, 1, 1, 1])(logits, torch.zeros(2, 5, 7, dtype=torch.long)).item() == 0


@pytest.mark.parametrize("loss", [CrossEntropy(), OHEM(0.7, 3), Dice(), IoU()])
def test_150_classes(loss):
    logits, targets = maps(150)
    value = loss(logits.requires_grad_(), targets)
    value.backward()
    assert value.item() > 0 and logits.grad.isfinite().all()


def test_one_class_is_a_binary_cross_entropy_whose_targets_are_positive():
    logits, targets = maps(1)
    valid = targets != IGNORE
    z = logits[:, 0][valid]
    expected = torch.nn.functional.binary_cross_entropy_with_logits(z, torch.ones_like(z))
    torch.testing.assert_close(CrossEntropy()(logits, targets), expected)
    # Dice sees the sigmoid, and no term for what is not a class.
    p = logits.sigmoid()[:, 0] * valid
    overlap, total = p.sum((1, 2)), p.square().sum((1, 2)) + valid.sum((1, 2))
    torch.testing.assert_close(Dice()(logits, targets), (1 - (2 * overlap + 1) / (total + 1)).mean())
    for loss in (CrossEntropy(), CrossEntropy([2.0]), OHEM(0.7, 3), Dice(), IoU()):
        (gradient,) = torch.autograd.grad(loss(logits.requires_grad_(), targets), logits)
        assert (gradient <= 0).all() and gradient.any()  # toward the class


def test_weights_stay_out_of_checkpoints():
    loss = CrossEntropy([1.0, 2.0])
    assert not loss.state_dict() and dict(loss.named_buffers())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CrossEntropy([1.0, -1.0]), "negative"),
        (lambda: CrossEntropy([1.0, 1.0])(*maps(3)), "2 numbers for 3 classes"),
        (lambda: OHEM(threshold=0), "threshold=0"),
        (lambda: OHEM(threshold=1.5), "threshold=1.5"),
        (lambda: OHEM(min_kept=0), "min_kept=0"),
        (lambda: Dice(smooth=0), "smooth=0"),
        (lambda: IoU(smooth=0), "smooth=0"),
        (lambda: IoU([]), "classes="),
        (lambda: IoU([4])(*maps()), "the model has 4"),
        (lambda: Sum([]), "0 losses"),
        (lambda: Sum([Dice()], [1.0, 2.0]), "1 losses and 2 weights"),
    ],
)
def test_bad_figures_are_reported(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(("label", "classes"), [(9, 9), (-1, 9), (254, 150), (1, 1), (256, 150)])
def test_labels_beyond_the_classes_are_reported(label, classes):
    targets = torch.zeros(2, 3, dtype=torch.long)
    targets[0, 0] = IGNORE
    check_targets(targets, classes)
    targets[1, 2] = label
    message = f"a.png has label {label}, which is not one of the model's {classes} classes"
    with pytest.raises(UserError, match=message):
        check_targets(targets, classes, "a.png")
