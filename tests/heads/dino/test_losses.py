"""DINO's matching, losses and denoising against brute force and formulas."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torchvision
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from torch import Tensor

from ivtuning.errors import UserError
from ivtuning.heads.dino import ContrastiveDenoising, Criterion, HungarianMatcher
from ivtuning.heads.dino.boxes import generalized_iou, inverse_sigmoid, to_centers, to_corners
from ivtuning.heads.dino.decoder import Predictions
from ivtuning.heads.dino.matcher import Matches
from ivtuning.heads.dino.targets import Targets, collect_targets

K = 5


def draw_boxes(*shape: int, seed: int = 0, dtype=torch.float32) -> Tensor:
    """Boxes inside the image, cx, cy, w, h."""
    generator = torch.Generator().manual_seed(seed)
    low, size = torch.rand(2, *shape, 2, generator=generator, dtype=torch.float64) * 0.45 + 0.05
    return to_centers(torch.cat([low, low + size], -1)).to(dtype)


def objects(*sizes: int, seed: int = 0) -> Targets:
    count = sum(sizes)
    labels = torch.randint(0, K, (count,), generator=torch.Generator().manual_seed(seed))
    image = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return Targets(labels, draw_boxes(count, seed=seed + 50), image, list(sizes))


def predictions(layers: int, images: int, queries: int, seed: int = 0, dtype=torch.float32) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(layers, images, queries, K, generator=generator, dtype=torch.float64) * 2
    return Predictions(logits.to(dtype), draw_boxes(layers, images, queries, seed=seed + 7, dtype=dtype))


def focal(logit: float, positive: bool) -> float:
    p = 1 / (1 + math.exp(-logit))
    return -0.25 * (1 - p) ** 2 * math.log(p) if positive else -0.75 * p**2 * math.log(1 - p)


def giou(a: Tensor, b: Tensor) -> float:
    """Generalized IoU of two boxes x1, y1, x2, y2."""
    return float(torchvision.ops.generalized_box_iou(a[None].double(), b[None].double()))


def pair_cost(logits: Tensor, box: Tensor, label: int, target: Tensor) -> float:
    score = float(logits[label])
    by_class = focal(score, True) - focal(score, False)
    l1 = float((box.double() - target.double()).abs().sum())
    return 2 * by_class + 5 * l1 - 2 * giou(to_corners(box), to_corners(target))


def test_generalized_iou():
    a, b = to_corners(draw_boxes(6)), to_corners(draw_boxes(8, seed=1))
    ours = generalized_iou(a[:, None], b)
    torch.testing.assert_close(ours, torchvision.ops.generalized_box_iou(a, b))
    point, box = torch.tensor([0.5, 0.5, 0.5, 0.5]), torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert generalized_iou(point, point).isfinite() and generalized_iou(box, box) == 1
    assert generalized_iou(point, box) == 0


def test_boxes_turn_into_each_other():
    boxes = draw_boxes(9)
    torch.testing.assert_close(to_centers(to_corners(boxes)), boxes)
    torch.testing.assert_close(inverse_sigmoid(boxes).sigmoid(), boxes)
    ends = inverse_sigmoid(torch.tensor([-1.0, 0.0, 1.0, 2.0]))
    assert ends.tolist() == pytest.approx([-math.log(1000)] * 2 + [math.log(1000)] * 2)


def test_cost_is_the_formula():
    targets, made = objects(2, 0, 3), predictions(2, 3, 4)
    cost = HungarianMatcher().cost(*made, targets)
    assert cost.shape == (5, 2, 4)
    for n, layer, q in itertools.product(range(5), range(2), range(4)):
        b = int(targets.image[n])
        expected = pair_cost(
            made.logits[layer, b, q], made.boxes[layer, b, q], int(targets.labels[n]), targets.boxes[n]
        )
        assert float(cost[n, layer, q]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_matching_is_the_cheapest_of_all_permutations():
    targets, made = objects(3, 0, 2, 4, seed=3), predictions(3, 4, 5, seed=4)
    matcher = HungarianMatcher()
    matches = matcher(*made, targets)
    assert len(matches.layer) == 3 * 9
    cost = matcher.cost(*made, targets)
    for layer, image in itertools.product(range(3), range(4)):
        mine = cost[targets.image == image, layer]
        cheapest = min(
            sum(float(mine[i, q]) for i, q in enumerate(chosen))
            for chosen in itertools.permutations(range(5), len(mine))
        )
        here = (matches.layer == layer) & (matches.image == image)
        query, target = matches.query[here], matches.target[here]
        assert len(set(query.tolist())) == len(query) == len(mine)
        assert targets.image[target].eq(image).all() and len(set(target.tolist())) == len(target)
        assert float(cost[target, layer, query].sum()) == pytest.approx(cheapest, abs=1e-5)


def test_matching_with_nothing_and_with_more_objects_than_queries():
    matcher = HungarianMatcher()
    assert all(len(index) == 0 for index in matcher(*predictions(2, 2, 4), objects(0, 0)))
    matches = matcher(*predictions(1, 1, 4), objects(6))
    assert sorted(matches.query.tolist()) == [0, 1, 2, 3] and len(set(matches.target.tolist())) == 4


def test_matching_survives_values_that_are_no_numbers():
    logits, boxes = predictions(1, 1, 6)
    logits[0, 0, 2] = torch.nan
    boxes[0, 0, 3] = torch.inf
    assert not {2, 3} & set(HungarianMatcher()(logits, boxes, objects(4)).query.tolist())


def test_losses_are_the_formulas():
    targets, made = objects(2, 1, seed=5), predictions(2, 2, 4, seed=6)
    matches = HungarianMatcher()(*made, targets)
    losses = Criterion.losses(made, matches, targets, torch.tensor(3.0))
    triples = list(zip(*(index.tolist() for index in matches), strict=True))
    for layer in range(2):
        wanted = {(b, q, int(targets.labels[t])) for at, b, q, t in triples if at == layer}
        by_class = sum(
            focal(float(made.logits[layer, b, q, k]), (b, q, k) in wanted)
            for b, q, k in itertools.product(range(2), range(4), range(K))
        )
        pairs = [(made.boxes[layer, b, q], targets.boxes[t]) for at, b, q, t in triples if at == layer]
        l1 = sum(float((a.double() - b.double()).abs().sum()) for a, b in pairs)
        by_overlap = sum(1 - giou(to_corners(a), to_corners(b)) for a, b in pairs)
        expected = [by_class / 3, l1 / 3, by_overlap / 3]
        assert losses[:, layer].tolist() == pytest.approx(expected, rel=1e-5)


def test_gradients_of_losses():
    targets, made = objects(2, 0, 1), predictions(2, 3, 3, dtype=torch.float64)
    targets = targets._replace(boxes=targets.boxes.double())
    matches = HungarianMatcher()(*made, targets)

    def run(logits: Tensor, boxes: Tensor) -> Tensor:
        return Criterion.losses(Predictions(logits, boxes), matches, targets, torch.tensor(3.0).double())

    assert torch.autograd.gradcheck(run, [x.requires_grad_() for x in made])


def test_criterion_sorts_layers_and_queries():
    """Last layer, the layers before, encoder and denoising queries, each with its own normalizer."""
    targets = objects(2, 1)
    torch.manual_seed(0)
    denoising = ContrastiveDenoising(num_dn_queries=6)(targets, K)  # 3 groups of 2 + 2
    assert denoising.num_groups == 3
    decoder, encoder = predictions(3, 2, 12 + 5), predictions(1, 2, 5, seed=9)
    losses = Criterion()(decoder, encoder, targets, denoising)
    weights = torch.tensor([1.0, 5.0, 2.0])

    def own(made: Predictions, matches: Matches, groups: int = 1) -> list[float]:
        return (
            Criterion.losses(made, matches, targets, torch.tensor(3.0 * groups)).sum(1) * weights
        ).tolist()

    def matching(layers: slice) -> Predictions:
        return Predictions(decoder.logits[layers, :, 12:], decoder.boxes[layers, :, 12:])

    # The second image has one object: its second query in every group is unused.
    indices = [(b, 4 * g + i, t) for g in range(3) for b, i, t in ((0, 0, 0), (0, 1, 1), (1, 0, 2))]
    image, query, target = torch.tensor(indices).T
    layer = torch.arange(3).repeat_interleave(9)
    known = Matches(layer, image.repeat(3), query.repeat(3), target.repeat(3))
    matcher = HungarianMatcher()
    expected = {
        "": own(matching(slice(2, 3)), matcher(*matching(slice(2, 3)), targets)),
        "_aux": own(matching(slice(0, 2)), matcher(*matching(slice(0, 2)), targets)),
        "_enc": own(encoder, matcher(*encoder, targets)),
        "_dn": own(Predictions(decoder.logits[:, :, :12], decoder.boxes[:, :, :12]), known, groups=3),
    }
    assert len(losses) == 12
    for part, values in expected.items():
        values_of_part = [float(losses[f"loss_{name}{part}"]) for name in ("class", "bbox", "giou")]
        assert values_of_part == pytest.approx(values, rel=1e-5)


@pytest.mark.parametrize("sizes", [(0, 0), (1, 0), (300, 2)])
def test_any_number_of_objects(sizes):
    targets = objects(*sizes)
    torch.manual_seed(0)
    denoising = ContrastiveDenoising()(targets, K)
    extra = denoising.labels.shape[1] if denoising else 0
    assert extra == {0: 0, 1: 200, 300: 600}[sizes[0]]
    decoder, encoder = predictions(2, 2, extra + 310), predictions(1, 2, 310)
    arguments = [x.requires_grad_() for x in (*decoder, *encoder)]
    losses = Criterion()(decoder, encoder, targets, denoising)
    gradients = torch.autograd.grad(sum(losses.values()), arguments)
    assert all(x.isfinite().all() for x in (*losses.values(), *gradients))
    without = [name for name, loss in losses.items() if loss == 0]
    boxes = [name for name in losses if "bbox" in name or "giou" in name]
    assert set(without) == ({*boxes, "loss_class_dn"} if not sum(sizes) else set())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype):
    """900 queries that are all sure and all wrong: their sum is beyond float16."""
    targets = objects(1)
    logits = torch.full((1, 1, 900, K), 1000.0, dtype=dtype).requires_grad_()
    boxes = draw_boxes(1, 1, 900)
    encoder = Predictions(logits.detach(), boxes)
    losses = Criterion()(Predictions(logits, boxes), encoder, targets, None)
    assert 65504 < float(losses["loss_class"]) < torch.inf
    assert torch.autograd.grad(losses["loss_class"], logits)[0].isfinite().all()


def test_normalizer_is_the_mean_over_processes(monkeypatch):
    assert Criterion.num_boxes(objects(0, 0)) == 1 and Criterion.num_boxes(objects(2, 3)) == 5
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda x: x.add_(9))  # the other one's objects
    assert Criterion.num_boxes(objects(2, 3)) == 7


def test_denoising_places_positives_and_negatives():
    targets = objects(3, 1, 0)
    torch.manual_seed(0)
    denoising = ContrastiveDenoising(num_dn_queries=7, label_noise_ratio=0.0, box_noise_scale=0.0)(targets, K)
    assert denoising.num_groups == 2 and denoising.labels.shape == (3, 12)  # 7 // 3 groups of 3 + 3
    truth = targets.boxes
    for half in range(4):  # positives and negatives of both groups: without noise all alike
        at = slice(3 * half, 3 * half + 3)
        assert denoising.labels[0, at].equal(targets.labels[:3]) and denoising.valid[0, at].all()
        torch.testing.assert_close(denoising.boxes[0, at].sigmoid(), truth[:3])
        assert denoising.labels[1, 3 * half] == targets.labels[3]
        assert denoising.valid[1, at].tolist() == [True, False, False]
    assert not denoising.valid[2].any() and denoising.boxes[2].eq(0).all()
    p = denoising.positives
    assert denoising.labels[p.image, p.query].equal(targets.labels[p.target])
    assert set(zip(p.image.tolist(), p.query.tolist(), strict=True)) == {
        (0, 0), (0, 1), (0, 2), (0, 6), (0, 7), (0, 8), (1, 0), (1, 6)
    }  # fmt: skip


def test_denoising_noise_has_the_published_size():
    targets = objects(40)
    targets = targets._replace(boxes=draw_boxes(40) * torch.tensor([0.2, 0.2, 0.1, 0.1]) + 0.3)
    torch.manual_seed(0)
    denoising = ContrastiveDenoising(num_dn_queries=4000, label_noise_ratio=0.5, box_noise_scale=0.4)(
        targets, K
    )
    groups = denoising.num_groups
    moved = to_corners(denoising.boxes.sigmoid()).view(groups, 2, 40, 4) - to_corners(targets.boxes)
    share = moved.abs() / (targets.boxes[:, 2:].repeat(1, 2) / 2)
    positive, negative = share[:, 0], share[:, 1]
    assert positive.max() <= 0.4 + 1e-4 and negative.min() >= 0.4 - 1e-4 and negative.max() <= 0.8 + 1e-4
    assert positive.mean() == pytest.approx(0.2, abs=0.005)
    assert (moved > 0).float().mean() == pytest.approx(0.5, abs=0.01)
    # A quarter is drawn anew, from all classes.
    swapped = (denoising.labels.view(groups, 2, 40) != targets.labels).float().mean()
    assert swapped == pytest.approx(0.25 * (K - 1) / K, abs=0.01)
    assert denoising.labels.min() == 0 and denoising.labels.max() == K - 1


def test_denoising_boxes_stay_in_the_image():
    targets = objects(1)._replace(boxes=torch.tensor([[0.02, 0.98, 0.2, 0.2]]))
    torch.manual_seed(0)
    corners = to_corners(ContrastiveDenoising()(targets, K).boxes.sigmoid())
    assert corners.min() > -2e-3 and corners.max() < 1 + 2e-3  # the inverse sigmoid is cut at 1e-3


def test_denoising_attention_mask():
    denoising = ContrastiveDenoising(num_dn_queries=4)(objects(2, 1), K)
    attn_mask = denoising.attn_mask(3)
    size = 2 * 2  # two positives and two negatives in each of two groups
    assert denoising.num_groups == 2 and attn_mask.shape == (11, 11)
    for i, j in itertools.product(range(11), range(11)):
        row, column = (x // size if x < 8 else None for x in (i, j))
        allowed = column is None or row == column
        assert bool(attn_mask[i, j]) is not allowed


def test_no_objects_no_denoising():
    assert ContrastiveDenoising()(objects(0, 0), K) is None


@pytest.mark.parametrize(
    "options", [{"num_dn_queries": 0}, {"label_noise_ratio": 1.5}, {"box_noise_scale": -1}]
)
def test_denoising_options_are_checked(options):
    with pytest.raises(UserError, match="at least 1 query"):
        ContrastiveDenoising(**options)


def sample(classes: list[int]) -> dict:
    instances = Instances((50, 100))
    instances.gt_boxes = Boxes(torch.tensor([[10.0, 20.0, 30.0, 40.0]] * len(classes)).view(-1, 4))
    instances.gt_classes = torch.tensor(classes, dtype=torch.long)
    return {"file_name": "vis/7.png", "instances": instances}


def test_targets_are_fractions_of_their_own_image():
    targets = collect_targets([sample([1]), sample([]), sample([2, 0])], K, torch.device("cpu"))
    assert targets.counts == [1, 0, 2] and targets.image.tolist() == [0, 2, 2]
    assert targets.labels.tolist() == [1, 2, 0]
    torch.testing.assert_close(targets.boxes[0], torch.tensor([0.2, 0.6, 0.2, 0.4]))


def test_targets_are_checked():
    with pytest.raises(UserError, match="vis/7.png: class 5 is not one of the model's 5 classes"):
        collect_targets([sample([1, 5])], K, torch.device("cpu"))
    with pytest.raises(UserError, match="x.png: no 'instances'"):
        collect_targets([{"file_name": "x.png"}], K, torch.device("cpu"))
