"""Co-DINO's parts against plain loops: assignment, quality focal loss, and which regions become queries."""

from __future__ import annotations

import pytest
import torch

from ivtuning.heads.codetr.assignment import assign
from ivtuning.heads.codetr.criterion import QualityCriterion
from ivtuning.heads.codetr.positives import MAX_QUERIES, MIN_QUERIES, customized_queries
from ivtuning.heads.codetr.regions import Regions
from ivtuning.heads.dino.boxes import to_corners
from ivtuning.heads.dino.decoder import Predictions
from ivtuning.heads.dino.matcher import Matches
from ivtuning.heads.dino.targets import Targets


def anchors_of(*strides: int, side: int = 96) -> list[torch.Tensor]:
    """Squares of 4 strides about each cell's corner, as ATSS lays them."""
    maps = []
    for stride in strides:
        at = torch.arange(0, side, stride).float()
        y, x = torch.meshgrid(at, at, indexing="ij")
        center = torch.stack([x, y], -1).reshape(-1, 2)
        maps.append(torch.cat([center - 2 * stride, center + 2 * stride], 1))
    return maps


def overlap_of(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width * height / (areas - width * height)


def by_hand(anchors: list[torch.Tensor], objects: torch.Tensor, candidates: int) -> list[int]:
    """Algorithm 1 of the paper, one object and one anchor after another."""
    every = torch.cat(anchors).tolist()
    best, owner = [0.0] * len(every), [-1] * len(every)
    for g, box in enumerate(objects.tolist()):
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)

        def center(i):
            return (every[i][0] + every[i][2]) / 2, (every[i][1] + every[i][3]) / 2

        def distance(i, middle=middle):
            x, y = center(i)
            return (x - middle[0]) ** 2 + (y - middle[1]) ** 2

        chosen, start = [], 0
        for level in anchors:
            chosen += sorted(range(start, start + len(level)), key=distance)[:candidates]
            start += len(level)
        overlaps = [overlap_of(every[i], box) for i in chosen]
        mean = sum(overlaps) / len(overlaps)
        deviation = (sum((o - mean) ** 2 for o in overlaps) / (len(overlaps) - 1)) ** 0.5
        for i, o in zip(chosen, overlaps, strict=True):
            x, y = center(i)
            inside = min(x - box[0], y - box[1], box[2] - x, box[3] - y) > 0.01
            if o >= mean + deviation and inside and o > best[i]:
                best[i], owner[i] = o, g
    return owner


@pytest.mark.parametrize("seed", range(5))
def test_assignment_is_the_papers(seed):
    generator = torch.Generator().manual_seed(seed)
    anchors = anchors_of(8, 16, 32)
    # At irregular positions: no two anchors are equally near.
    corner = torch.rand(6, 2, generator=generator) * 60
    objects = torch.cat([corner, corner + 8 + torch.rand(6, 2, generator=generator) * 50], 1)
    assigned = assign([a.double() for a in anchors], objects.double())
    assert assigned.tolist() == by_hand([a.double() for a in anchors], objects.double(), 9)
    assert (assigned >= 0).sum() > 5


def test_nothing_to_assign():
    assert assign(anchors_of(16), torch.zeros(0, 4)).eq(-1).all()


def regions(positives: int, others: int) -> Regions:
    count = positives + others
    corner = torch.rand(count, 2) * 50
    boxes = torch.cat([corner, corner + 10], 1)
    labels = torch.tensor([1] * positives + [3] * others)
    fields = dict(boxes=boxes, labels=labels, objects=boxes + 2)
    return Regions(**fields)


@pytest.mark.parametrize(
    ("most", "expected"), [(0, MIN_QUERIES), (4, MIN_QUERIES), (20, 20), (400, MAX_QUERIES)]
)
def test_all_positives_become_queries_and_the_rest_is_filled_up(most, expected):
    torch.manual_seed(0)
    sizes = [(64, 128), (32, 64)]
    queries = customized_queries(
        [regions(most, 500 - most), regions(2 if most else 0, 498)], sizes, num_classes=3
    )
    assert queries.boxes.shape == queries.objects.shape == (2, expected, 4) and queries.labels.shape == (
        2,
        expected,
    )
    positive = (queries.labels < 3).sum(1).tolist()
    assert positive == [min(most, expected), 2 if most else 0]
    scale = torch.tensor([[128.0, 64, 128, 64], [64.0, 32, 64, 32]])[:, None]
    torch.testing.assert_close(to_corners(queries.boxes) * scale + 2, to_corners(queries.objects) * scale)


def test_quality_loss_is_its_definition_and_its_gradient_that_of_differences():
    torch.manual_seed(0)
    logits = torch.randn(1, 1, 3, 2, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[[[0.5, 0.5, 0.2, 0.2], [0.3, 0.3, 0.1, 0.2], [0.7, 0.7, 0.2, 0.1]]]]).double()
    true = torch.tensor([[0.52, 0.5, 0.2, 0.24]]).double()
    index = torch.tensor([0])
    targets = Targets(torch.tensor([1]), true, index, [1])
    matches = Matches(index, index, index, index)

    def loss(x):
        return QualityCriterion().losses(Predictions(x, boxes), matches, targets, torch.tensor(1.0).double())

    quality = overlap_of(to_corners(boxes[0, 0, 0]).tolist(), to_corners(true[0]).tolist())
    expected = 0.0
    for query in range(3):
        for k in range(2):
            score = logits[0, 0, query, k].sigmoid()
            wanted = quality if (query, k) == (0, 1) else 0.0
            entropy = -(wanted * score.log() + (1 - wanted) * (1 - score).log())
            expected = expected + entropy * (wanted - score).square()
    assert float(loss(logits)[0, 0].detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert torch.autograd.gradcheck(lambda x: loss(x)[0], logits)
