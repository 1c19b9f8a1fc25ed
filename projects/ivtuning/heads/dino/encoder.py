"""DINO's encoder: deformable self-attention over the positions of all maps."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .deformable_attention import MultiScaleDeformableAttention
from .positional import map_positions


class FeatureLayout(NamedTuple):
    """Geometry of L maps of a batch, whose S positions are flattened one map after another.

    Fields:
        spatial_shapes: height and width of every map.
        padding_mask: (B, S) bool, True where a position lies right of or below its image.
        valid_ratios: (B, L, 2) float32, share of a map's width and height that the image fills.
        reference_points: (B, S, 2) float32, x and y of the positions as fractions of the image; beyond 1 in
            the padding.
        pos_embeds: L sine embeddings, (B, H * W, dim) each.
    """

    spatial_shapes: list[tuple[int, int]]
    padding_mask: Tensor
    valid_ratios: Tensor
    reference_points: Tensor
    pos_embeds: list[Tensor]


def feature_layout(
    spatial_shapes: list[tuple[int, int]],
    image_sizes: list[tuple[int, int]],
    padded_size: tuple[int, int],
    dim: int,
    temperature: float,
    device: torch.device,
) -> FeatureLayout:
    """The layout of maps of images that were padded at the right and the bottom.

    Args:
        spatial_shapes: height and width of every map.
        image_sizes: height and width of every image, in pixels.
        padded_size: height and width of the batch, in pixels.
        dim, temperature: channels and temperature of the sine embeddings.
    """
    sizes = torch.tensor(image_sizes, device=device)
    padding_masks, valid_ratios, reference_points, pos_embeds = [], [], [], []
    for h, w in spatial_shapes:
        # A position is padding where its nearest pixel is, rounded down.
        rows = torch.arange(h, device=device) * padded_size[0] // h >= sizes[:, :1]
        columns = torch.arange(w, device=device) * padded_size[1] // w >= sizes[:, 1:]
        padding_mask = rows[:, :, None] | columns[:, None]
        valid_size = torch.stack([(~columns).sum(1), (~rows).sum(1)], -1).float()
        y, x = torch.meshgrid(
            torch.arange(h, device=device) + 0.5, torch.arange(w, device=device) + 0.5, indexing="ij"
        )
        padding_masks.append(padding_mask.flatten(1))
        valid_ratios.append(valid_size / valid_size.new_tensor([w, h]))
        reference_points.append(torch.stack([x, y], -1).view(1, -1, 2) / valid_size[:, None])
        pos_embeds.append(map_positions(padding_mask, dim, temperature))
    return FeatureLayout(
        spatial_shapes,
        torch.cat(padding_masks, 1),
        torch.stack(valid_ratios, 1),
        torch.cat(reference_points, 1),
        pos_embeds,
    )


class EncoderLayer(nn.Module):
    """Deformable self-attention and an MLP, each with a residual and a norm. (B, S, dim) -> (B, S, dim)."""

    def __init__(
        self, embed_dim: int, num_heads: int, feedforward_dim: int, num_levels: int, num_points: int
    ):
        super().__init__()
        self.self_attn = MultiScaleDeformableAttention(embed_dim, num_heads, num_levels, num_points)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.linear1 = nn.Linear(embed_dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim)

    def forward(
        self, query: Tensor, query_pos: Tensor, reference_points: Tensor, layout: FeatureLayout
    ) -> Tensor:
        """
        Args:
            query, query_pos: (B, S, dim), the positions' content and their embeddings.
            reference_points: (B, S, L, 2), each position on every map; 0..1 spans a map with its padding.
        """
        attended = self.self_attn(
            query + query_pos, reference_points, query, layout.spatial_shapes, layout.padding_mask
        )
        query = self.norm1(query + attended)
        return self.norm2(query + self.linear2(F.relu(self.linear1(query))))


class Encoder(nn.Module):
    """`num_layers` of :class:`EncoderLayer`, which `layer` gives the arguments of."""

    def __init__(self, num_layers: int, **layer: int):
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(**layer) for _ in range(num_layers))

    def forward(self, query: Tensor, query_pos: Tensor, layout: FeatureLayout) -> Tensor:
        """
        Args:
            query: (B, S, dim), the maps one after another.
            query_pos: (B, S, dim) embeddings of position and level.

        Returns:
            (B, S, dim).
        """
        reference_points = layout.reference_points[:, :, None] * layout.valid_ratios[:, None]
        for layer in self.layers:
            query = layer(query, query_pos, reference_points, layout)
        return query
