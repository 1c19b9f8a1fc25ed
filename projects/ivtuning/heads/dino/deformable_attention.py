"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, section 4.1) in plain torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ...errors import UserError

# Height and width of every map, finest first.
SpatialShapes = Sequence[tuple[int, int]]

_sample = torch.ops.aten.grid_sampler_2d
_sample_backward = torch.ops.aten.grid_sampler_2d_backward
_MODE = (0, 0, False)  # bilinear, zeros outside, pixel centers at half-integers


class _MultiScaleDeformableAttn(torch.autograd.Function):
    """Forward and backward pass of :func:`multi_scale_deformable_attn`.

    Sampled values, D floats for every point, are by far the largest intermediate. They are not kept: the
    backward pass samples again where it needs them. Points are laid out as (P, Q), so that the sum over
    points adds long contiguous rows, and everything that broadcasts against the samples is contiguous.
    """

    @staticmethod
    def forward(
        ctx,
        value: Tensor,
        sampling_locations: Tensor,
        attention_weights: Tensor,
        spatial_shapes: SpatialShapes,
    ) -> Tensor:
        B, _, M, D = value.shape
        Q, L, P = sampling_locations.shape[1], sampling_locations.shape[3], sampling_locations.shape[4]
        maps = [
            v.permute(0, 2, 3, 1).reshape(B * M, D, h, w).contiguous()
            for v, (h, w) in zip(
                value.split([h * w for h, w in spatial_shapes], 1), spatial_shapes, strict=True
            )
        ]
        grids = (2 * sampling_locations - 1).permute(3, 0, 2, 4, 1, 5).contiguous().view(L, B * M, P, Q, 2)
        weights = attention_weights.permute(3, 0, 2, 4, 1).contiguous().view(L, B * M, 1, P, Q)
        total = value.new_zeros(B * M, D, Q)
        for source, grid, weight in zip(maps, grids, weights, strict=True):
            total += _sample(source, grid, *_MODE).mul_(weight).sum(2)
        ctx.save_for_backward(grids, weights, *maps)
        return total.view(B, M * D, Q).transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        grids, weights, *maps = ctx.saved_tensors
        B, Q, _ = grad_output.shape
        L, BM, P = grids.shape[:3]
        M, D = BM // B, maps[0].shape[1]
        grad_output = grad_output.transpose(1, 2).contiguous().view(BM, D, 1, Q)
        grad_value, grad_grid, grad_weight = [], [], []
        for source, grid, weight in zip(maps, grids, weights, strict=True):
            grad_weight.append(_sample(source, grid, *_MODE).mul_(grad_output).sum(1))
            to_source, to_grid = _sample_backward(grad_output * weight, source, grid, *_MODE, [True, True])
            grad_value.append(to_source.view(B, M, D, -1))
            grad_grid.append(to_grid)
        return (
            torch.cat(grad_value, -1).permute(0, 3, 1, 2),
            2 * torch.stack(grad_grid).view(L, B, M, P, Q, 2).permute(1, 4, 2, 0, 3, 5),
            torch.stack(grad_weight).view(L, B, M, P, Q).permute(1, 4, 2, 0, 3),
            None,
        )


def multi_scale_deformable_attn(
    value: Tensor, sampling_locations: Tensor, attention_weights: Tensor, spatial_shapes: SpatialShapes
) -> Tensor:
    """Weighted sum of values sampled bilinearly from several maps; they are 0 outside of a map.

    Computed in float32, or in float64 where an argument is: half precision cannot tell pixels apart.

    Args:
        value: (B, S, M, D) values of M heads, the maps one after another; S is the sum of the maps' sizes.
        sampling_locations: (B, Q, M, L, P, 2) x and y of P points in each of L maps; 0..1 spans a map.
        attention_weights: (B, Q, M, L, P).
        spatial_shapes: height and width of every map.

    Returns:
        (B, Q, M * D), differentiable once with respect to all three tensors.
    """
    tensors = (value, sampling_locations, attention_weights)
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return _MultiScaleDeformableAttn.apply(*(tensor.to(dtype) for tensor in tensors), spatial_shapes)


class MultiScaleDeformableAttention(nn.Module):
    """Attention of every query to a few points of every map around its reference point.

    Args:
        embed_dim: channels of queries, values and output; a multiple of `num_heads`.
        num_heads: attention heads.
        num_levels: maps.
        num_points: points that one head samples in one map.

    Raises:
        UserError: `embed_dim` is not a multiple of `num_heads`.
    """

    def __init__(self, embed_dim: int = 256, num_heads: int = 8, num_levels: int = 4, num_points: int = 4):
        super().__init__()
        if embed_dim % num_heads:
            raise UserError(
                f"deformable attention: embed_dim={embed_dim} is not a multiple of num_heads={num_heads}"
            )
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        self.sampling_offsets = nn.Linear(embed_dim, num_heads * num_levels * num_points * 2)
        self.attention_weights = nn.Linear(embed_dim, num_heads * num_levels * num_points)
        self.value_proj = nn.Linear(embed_dim, embed_dim)
        self.output_proj = nn.Linear(embed_dim, embed_dim)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Point head m along the m-th direction of a star, with its points at distances 1, 2, ..."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angle = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        star = torch.stack([angle.cos(), angle.sin()], -1)
        star = star / star.abs().amax(-1, keepdim=True)
        distance = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        offsets = star[:, None, None] * distance[:, None]
        self.sampling_offsets.bias.copy_(offsets.expand(-1, self.num_levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        memory: Tensor,
        spatial_shapes: SpatialShapes,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """
        Args:
            query: (B, Q, dim).
            reference_points: (B, Q, L, 2) points x, y, or (B, Q, L, 4) boxes cx, cy, w, h; 0..1 spans a map
                with its padding. Sampling offsets count pixels around a point, and in a box half its size
                divided by `num_points`.
            memory: (B, S, dim), the maps one after another.
            spatial_shapes: height and width of every map.
            padding_mask: (B, S) bool, True where `memory` is padding and counts as 0.

        Returns:
            (B, Q, dim).
        """
        value = self.value_proj(memory)
        if padding_mask is not None:
            value = value.masked_fill(padding_mask[..., None], 0.0)
        locations, weights = self.sampling(query, reference_points, spatial_shapes)
        value = value.view(*value.shape[:2], self.num_heads, -1)
        output = multi_scale_deformable_attn(value, locations, weights, spatial_shapes)
        return self.output_proj(output.to(query.dtype))

    def sampling(
        self, query: Tensor, reference_points: Tensor, spatial_shapes: SpatialShapes
    ) -> tuple[Tensor, Tensor]:
        """Sampling locations and attention weights.

        Args:
            query, reference_points, spatial_shapes: as in :meth:`forward`.

        Returns:
            Locations (B, Q, M, L, P, 2) and weights (B, Q, M, L, P) as
            :func:`multi_scale_deformable_attn` takes them, in the precision of the reference points; the
            weights of one head sum to 1.
        """
        B, Q, _ = query.shape
        shape = (B, Q, self.num_heads, self.num_levels, self.num_points)
        # Coordinates stay in the precision of the reference points: bfloat16 resolves 1/256 of a map.
        dtype = reference_points.dtype
        offsets = self.sampling_offsets(query).to(dtype).view(*shape, 2)
        weights = self.attention_weights(query).view(B, Q, self.num_heads, -1)
        weights = weights.to(dtype).softmax(-1).view(shape)
        reference_points = reference_points[:, :, None, :, None]
        if reference_points.shape[-1] == 2:
            size = reference_points.new_tensor([(w, h) for h, w in spatial_shapes])
            return reference_points + offsets / size[:, None], weights
        centers, sizes = reference_points[..., :2], reference_points[..., 2:]
        return centers + offsets * (sizes * (0.5 / self.num_points)), weights
