"""DINO's encoder: the places of all maps attend to each other, deformably."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .deformable_attention import DeformableAttention
from .positional import map_positions


class Places(NamedTuple):
    """Geometry of L maps of a batch, their S places one after another.

    Fields:
        shapes: height and width of every map.
        padding: (B, S) bool, True where a place lies right of or below its image.
        valid: (B, L, 2) float32, share of the map's width and height that the image fills.
        centers: (B, S, 2) float32, x and y of the places as fractions of the image; beyond 1 in the padding.
        positions: L sine embeddings, (B, H * W, dim) each.
    """

    shapes: list[tuple[int, int]]
    padding: Tensor
    valid: Tensor
    centers: Tensor
    positions: list[Tensor]


def locate(
    shapes: list[tuple[int, int]],
    image_sizes: list[tuple[int, int]],
    padded: tuple[int, int],
    dim: int,
    temperature: float,
    device: torch.device,
) -> Places:
    """Where the places of maps lie in images that were padded at the right and the bottom.

    Args:
        shapes: height and width of every map.
        image_sizes: height and width of every image, in pixels.
        padded: height and width of the batch, in pixels.
        dim, temperature: of the sine embeddings.
    """
    sizes = torch.tensor(image_sizes, device=device)
    padding, valid, centers, positions = [], [], [], []
    for h, w in shapes:
        # A place is padding where its nearest pixel is, rounded down.
        rows = torch.arange(h, device=device) * padded[0] // h >= sizes[:, :1]
        columns = torch.arange(w, device=device) * padded[1] // w >= sizes[:, 1:]
        outside = rows[:, :, None] | columns[:, None]
        filled = torch.stack([(~columns).sum(1), (~rows).sum(1)], -1).float()
        y, x = torch.meshgrid(
            torch.arange(h, device=device) + 0.5, torch.arange(w, device=device) + 0.5, indexing="ij"
        )
        padding.append(outside.flatten(1))
        valid.append(filled / filled.new_tensor([w, h]))
        centers.append(torch.stack([x, y], -1).view(1, -1, 2) / filled[:, None])
        positions.append(map_positions(outside, dim, temperature))
    return Places(shapes, torch.cat(padding, 1), torch.stack(valid, 1), torch.cat(centers, 1), positions)


class EncoderLayer(nn.Module):
    """Deformable self-attention and an MLP, each added and normalized. (B, S, dim) -> (B, S, dim)."""

    def __init__(self, dim: int, heads: int, hidden: int, levels: int, points: int):
        super().__init__()
        self.self_attn = DeformableAttention(dim, heads, levels, points)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, positions: Tensor, reference: Tensor, places: Places) -> Tensor:
        x = self.norm1(x + self.self_attn(x + positions, reference, x, places.shapes, places.padding))
        return self.norm2(x + self.linear2(F.relu(self.linear1(x))))


class Encoder(nn.Module):
    """Args:
    layers: number of layers.
    dim, heads, hidden, levels, points: of every layer.
    """

    def __init__(self, layers: int, dim: int, heads: int, hidden: int, levels: int, points: int):
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(dim, heads, hidden, levels, points) for _ in range(layers))

    def forward(self, x: Tensor, positions: Tensor, places: Places) -> Tensor:
        """
        Args:
            x: (B, S, dim), the maps one after another.
            positions: (B, S, dim) embeddings of place and map.

        Returns:
            (B, S, dim).
        """
        reference = places.centers[:, :, None] * places.valid[:, None]
        for layer in self.layers:
            x = layer(x, positions, reference, places)
        return x
