"""Multi-scale deformable attention against its definition, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers.attention import SHAPES, defining_sum
from torch import Tensor

from ivtuning.errors import UserError
from ivtuning.heads.dino import MultiScaleDeformableAttention, multi_scale_deformable_attn

B, Q, M, L, P, D = 2, 3, 2, len(SHAPES), 2, 3
S = sum(h * w for h, w in SHAPES)


def inputs(dtype=torch.float64, spread: float = 1.4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    value = draw(B, S, M, D) * 2 - 1
    locations = (draw(B, Q, M, L, P, 2) - 0.5) * spread + 0.5  # some lie outside
    weights = draw(B, Q, M, L * P).softmax(-1).view(B, Q, M, L, P)
    return value.to(dtype), locations.to(dtype), weights.to(dtype)


def test_equals_the_defining_sum():
    arguments = inputs()
    output = multi_scale_deformable_attn(*arguments, SHAPES)
    assert output.shape == (B, Q, M * D) and output.dtype == torch.float64
    torch.testing.assert_close(output, defining_sum(*arguments), rtol=1e-12, atol=1e-14)


def test_points_far_outside_count_as_zero():
    value, locations, weights = inputs()
    assert multi_scale_deformable_attn(value, locations + 3, weights, SHAPES).eq(0).all()


def test_gradients():
    arguments = [x.requires_grad_() for x in inputs()]
    assert torch.autograd.gradcheck(lambda *x: multi_scale_deformable_attn(*x, SHAPES), arguments)


def test_one_image_gives_the_same_gradients_as_a_batch():
    """With a batch of one, views are laid out differently inside."""
    arguments = [x.requires_grad_() for x in inputs()]
    whole = torch.autograd.grad(multi_scale_deformable_attn(*arguments, SHAPES).square().sum(), arguments)
    for b in range(B):
        one = [x[b : b + 1].detach().requires_grad_() for x in arguments]
        part = torch.autograd.grad(multi_scale_deformable_attn(*one, SHAPES).square().sum(), one)
        for gradient, expected in zip(part, whole, strict=True):
            torch.testing.assert_close(gradient[0], expected[b])


def test_keeps_no_sampled_values():
    shapes, queries = [(12, 16), (6, 8)], 240
    value = torch.randn(1, 240, 2, 32, requires_grad=True)
    locations = torch.rand(1, queries, 2, 2, 4, 2, requires_grad=True)
    weights = torch.rand(1, queries, 2, 2, 4, requires_grad=True)
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        multi_scale_deformable_attn(value, locations, weights, shapes)
    samples = weights.numel() * value.shape[-1] * 4
    assert 0 < sum(kept.values()) < 0.4 * samples


def layer(**kwargs) -> MultiScaleDeformableAttention:
    torch.manual_seed(0)
    module = MultiScaleDeformableAttention(M * D, num_heads=M, num_levels=L, num_points=P, **kwargs).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return module


def tokens(count: int) -> Tensor:
    return torch.randn(B, count, M * D, dtype=torch.float64, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("size", [2, 4])
def test_layer_samples_around_points_and_in_boxes(size):
    module, query, memory = layer(), tokens(Q), tokens(S)
    reference = torch.rand(B, Q, L, size, dtype=torch.float64) * 0.6 + 0.2
    padding = torch.zeros(B, S, dtype=torch.bool)
    padding[1, [3, 4, 40]] = True

    value = module.value_proj(memory)
    value[1, [3, 4, 40]] = 0
    offsets = module.sampling_offsets(query).view(B, Q, M, L, P, 2)
    locations = torch.empty_like(offsets)
    for level, (h, w) in enumerate(SHAPES):
        center = reference[:, :, level, None, None, :2]
        if size == 2:
            locations[:, :, :, level] = center + offsets[:, :, :, level] / torch.tensor([w, h])
        else:
            half = reference[:, :, level, None, None, 2:] / 2
            locations[:, :, :, level] = center + offsets[:, :, :, level] / P * half
    weights = module.attention_weights(query).view(B, Q, M, L * P).softmax(-1).view(B, Q, M, L, P)
    expected = module.output_proj(defining_sum(value.view(B, S, M, D), locations, weights))
    torch.testing.assert_close(module(query, reference, memory, SHAPES, padding), expected)


def test_layer_gradients():
    module = layer()
    query, memory = tokens(Q).requires_grad_(), tokens(S).requires_grad_()
    reference = (torch.rand(B, Q, L, 4, dtype=torch.float64) * 0.6 + 0.2).requires_grad_()

    def run(query, memory, reference, *parameters):
        named = dict(zip(dict(module.named_parameters()), parameters, strict=True))
        return torch.func.functional_call(module, named, (query, reference, memory, SHAPES))

    arguments = (query, memory, reference, *module.parameters())
    assert torch.autograd.gradcheck(run, arguments, fast_mode=True)


def test_heads_start_as_a_star():
    module = MultiScaleDeformableAttention(16, num_heads=4, num_levels=2, num_points=3)
    offsets = module.sampling_offsets.bias.view(4, 2, 3, 2)
    right, down, left, up = [[1, 0]], [[0, 1]], [[-1, 0]], [[0, -1]]
    for head, direction in enumerate((right, down, left, up)):
        for point in range(3):
            expected = torch.tensor(direction * 2, dtype=torch.float32) * (point + 1)
            torch.testing.assert_close(offsets[head, :, point], expected, atol=1e-6, rtol=0)
    assert module.sampling_offsets.weight.eq(0).all() and module.attention_weights.weight.eq(0).all()


def test_half_precision_neither_overflows_nor_loses_pixels():
    shapes = [(160, 160)]
    value = torch.zeros(1, 160 * 160, 1, 1, dtype=torch.float16)
    value[0, -1] = 60000.0
    exact = torch.full((1, 1, 1, 1, 2, 2), 159.5 / 160)
    weights = torch.ones(1, 1, 1, 1, 2, dtype=torch.float16)
    output = multi_scale_deformable_attn(value, exact, weights, shapes)
    # More than float16 holds, at a place that bfloat16 does not have: 159.5/160 is 1 there.
    assert output.dtype == torch.float32
    torch.testing.assert_close(output.item(), 120000.0, rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_stays_near(dtype):
    torch.manual_seed(0)
    module = MultiScaleDeformableAttention(64, num_heads=4, num_levels=L, num_points=4)
    query, memory = torch.randn(1, 20, 64), torch.randn(1, S, 64)
    reference = torch.rand(1, 20, L, 2)
    expected = module(query, reference, memory, SHAPES)
    with torch.autocast("cpu", dtype):
        output = module(query, reference, memory, SHAPES)
    assert F.cosine_similarity(output.float().flatten(), expected.flatten(), 0) > 0.999


def test_heads_must_divide():
    with pytest.raises(UserError, match="embed_dim=30 is not a multiple of num_heads=4"):
        MultiScaleDeformableAttention(30, num_heads=4)
