"""The counter of FLOPs knows every operator that multiplies, or says that it does not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ivtuning.errors import UserError
from ivtuning.utils.arithmetic import FlopCounter

A, B = torch.randn(3, 4), torch.randn(4, 5)
Q = torch.randn(1, 2, 6, 8)


@pytest.mark.parametrize(
    "run, macs",
    [
        (lambda: A @ B, 60),
        (lambda: F.linear(A, B.T, torch.zeros(5)), 60),
        (lambda: torch.zeros(3, 5).addmm_(A, B), 60),
        (lambda: torch.zeros(2, 3, 5).baddbmm_(A.expand(2, 3, 4), B.expand(2, 4, 5)), 120),
        (lambda: torch.bmm(A[None], B[None], out=torch.zeros(1, 3, 5)), 60),
        (lambda: torch.einsum("ij,jk->ik", A, B), 60),
        (lambda: F.conv2d(torch.randn(1, 4, 5, 5), torch.randn(4, 1, 3, 3), padding=1, groups=4), 900),
        (lambda: F.scaled_dot_product_attention(Q, Q, Q), 2 * 2 * 6 * 6 * 8),
        (lambda: A.exp() + F.layer_norm(A, (4,)) * A.softmax(-1), 0),
        (lambda: F.interpolate(Q, scale_factor=2, mode="bicubic"), 0),
    ],
)
def test_products(run, macs):
    with torch.no_grad(), FlopCounter() as counter:
        run()
    assert counter.total() == 2 * macs


def test_backward_passes_count():
    weight = torch.randn(5, 4, requires_grad=True)
    with FlopCounter() as counter:
        F.linear(A, weight).sum().backward()
    assert counter.total() == 2 * 60 + 2 * 60  # the input has no gradient


@pytest.mark.parametrize(
    "run, operator",
    [
        (lambda: torch.mv(A, B[:, 0]), "aten.mv"),
        (lambda: torch.dot(A[0], B[:, 0]), "aten.dot"),
        (lambda: torch.cdist(A, A), "cdist"),
        (lambda: F.grid_sample(Q, torch.zeros(1, 3, 3, 2)), "grid_sampler"),
        (lambda: F.bilinear(A, A, torch.randn(2, 4, 4)), "linear"),
        (lambda: torch.ops.torchvision.nms(A, A[:, 0], 0.5), "torchvision.nms"),
    ],
)
def test_what_has_no_formula_is_named(run, operator):
    import torchvision  # noqa: F401, its operators

    with pytest.raises(UserError, match=operator), FlopCounter():
        run()
