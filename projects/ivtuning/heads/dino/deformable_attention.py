"""Multi-scale deformable attention (arXiv 2010.04159, section 4.1) in plain torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ...errors import UserError

# Height and width of every map, finest first.
Shapes = Sequence[tuple[int, int]]

_sample = torch.ops.aten.grid_sampler_2d
_sample_backward = torch.ops.aten.grid_sampler_2d_backward
_MODE = (0, 0, False)  # bilinear, zeros outside, pixel centers at half-integers


class _DeformableSum(torch.autograd.Function):
    """See :func:`deformable_sum`.

    Sampled values, D floats for every point, are by far the largest intermediate. They are not kept: the
    backward pass samples again where it needs them. Points are laid out as (P, Q), so that the sum over
    points adds long contiguous rows, and everything that broadcasts against the samples is contiguous.
    """

    @staticmethod
    def forward(ctx, value: Tensor, locations: Tensor, weights: Tensor, shapes: Shapes) -> Tensor:
        B, _, M, D = value.shape
        Q, L, P = locations.shape[1], locations.shape[3], locations.shape[4]
        maps = [
            v.permute(0, 2, 3, 1).reshape(B * M, D, h, w).contiguous()
            for v, (h, w) in zip(value.split([h * w for h, w in shapes], 1), shapes, strict=True)
        ]
        grids = (2 * locations - 1).permute(3, 0, 2, 4, 1, 5).contiguous().view(L, B * M, P, Q, 2)
        weights = weights.permute(3, 0, 2, 4, 1).contiguous().view(L, B * M, 1, P, Q)
        total = value.new_zeros(B * M, D, Q)
        for source, grid, weight in zip(maps, grids, weights, strict=True):
            total += _sample(source, grid, *_MODE).mul_(weight).sum(2)
        ctx.save_for_backward(grids, weights, *maps)
        return total.view(B, M * D, Q).transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        grids, weights, *maps = ctx.saved_tensors
        B, Q, _ = gradient.shape
        L, BM, P = grids.shape[:3]
        M, D = BM // B, maps[0].shape[1]
        gradient = gradient.transpose(1, 2).contiguous().view(BM, D, 1, Q)
        by_value, by_grid, by_weight = [], [], []
        for source, grid, weight in zip(maps, grids, weights, strict=True):
            by_weight.append(_sample(source, grid, *_MODE).mul_(gradient).sum(1))
            to_source, to_grid = _sample_backward(gradient * weight, source, grid, *_MODE, [True, True])
            by_value.append(to_source.view(B, M, D, -1))
            by_grid.append(to_grid)
        return (
            torch.cat(by_value, -1).permute(0, 3, 1, 2),
            2 * torch.stack(by_grid).view(L, B, M, P, Q, 2).permute(1, 4, 2, 0, 3, 5),
            torch.stack(by_weight).view(L, B, M, P, Q).permute(1, 4, 2, 0, 3),
            None,
        )


def deformable_sum(value: Tensor, locations: Tensor, weights: Tensor, shapes: Shapes) -> Tensor:
    """Weighted sum of values sampled bilinearly from several maps; outside of a map they are 0.

    Computed in float32, or in float64 where an argument is: half precision cannot tell pixels apart.

    Args:
        value: (B, S, M, D) values of M heads, the maps one after another; S is the sum of the maps' sizes.
        locations: (B, Q, M, L, P, 2) x and y of P points in each of L maps; 0..1 spans a map.
        weights: (B, Q, M, L, P).
        shapes: height and width of every map.

    Returns:
        (B, Q, M * D), differentiable once by all three.
    """
    dtype = torch.float32
    for tensor in (value, locations, weights):
        dtype = torch.promote_types(dtype, tensor.dtype)
    return _DeformableSum.apply(value.to(dtype), locations.to(dtype), weights.to(dtype), shapes)


class DeformableAttention(nn.Module):
    """Every query attends to a few points of every map, around a place of its own.

    Args:
        dim: channels of queries, values and output; a multiple of `heads`.
        heads, levels, points: attention heads, maps, and points of one head in one map.

    Raises:
        UserError: `dim` is no multiple of `heads`.
    """

    def __init__(self, dim: int = 256, heads: int = 8, levels: int = 4, points: int = 4):
        super().__init__()
        if dim % heads:
            raise UserError(f"deformable attention: dim={dim} is no multiple of heads={heads}")
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 2)
        self.attention_weights = nn.Linear(dim, heads * levels * points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """At first, head m looks along the m-th direction of a star, point i at distance i + 1."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angle = torch.arange(self.heads, dtype=torch.float32) * (2 * math.pi / self.heads)
        star = torch.stack([angle.cos(), angle.sin()], -1)
        star = star / star.abs().amax(-1, keepdim=True)
        distance = torch.arange(1, self.points + 1, dtype=torch.float32)
        offsets = star[:, None, None] * distance[:, None]
        self.sampling_offsets.bias.copy_(offsets.expand(-1, self.levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, query: Tensor, reference: Tensor, memory: Tensor, shapes: Shapes, padding: Tensor | None = None
    ) -> Tensor:
        """
        Args:
            query: (B, Q, dim).
            reference: (B, Q, L, 2) points x, y, or (B, Q, L, 4) boxes cx, cy, w, h; 0..1 spans a map with
                its padding. Offsets count pixels around a point, eighths of the size at 4 points in a box.
            memory: (B, S, dim), the maps one after another.
            shapes: height and width of every map.
            padding: (B, S) bool, True where `memory` is padding and counts as 0.

        Returns:
            (B, Q, dim).
        """
        value = self.value_proj(memory)
        if padding is not None:
            value = value.masked_fill(padding[..., None], 0.0)
        locations, weights = self.sampling(query, reference, shapes)
        value = value.view(*value.shape[:2], self.heads, -1)
        return self.output_proj(deformable_sum(value, locations, weights, shapes).to(query.dtype))

    def sampling(self, query: Tensor, reference: Tensor, shapes: Shapes) -> tuple[Tensor, Tensor]:
        """Where every query looks, and how hard.

        Args:
            query, reference, shapes: see :meth:`forward`.

        Returns:
            Locations (B, Q, M, L, P, 2) and weights (B, Q, M, L, P) as :func:`deformable_sum` takes them, in
            the reference's precision; those of one head sum to 1.
        """
        B, Q, _ = query.shape
        places = (B, Q, self.heads, self.levels, self.points)
        # Coordinates stay in the reference's precision: bfloat16 resolves 1/256 of a map.
        offsets = self.sampling_offsets(query).to(reference.dtype).view(*places, 2)
        weights = self.attention_weights(query).view(B, Q, self.heads, -1)
        weights = weights.to(reference.dtype).softmax(-1).view(places)
        reference = reference[:, :, None, :, None]
        if reference.shape[-1] == 2:
            size = reference.new_tensor([(w, h) for h, w in shapes])
            return reference + offsets / size[:, None], weights
        return reference[..., :2] + offsets * (reference[..., 2:] * (0.5 / self.points)), weights
