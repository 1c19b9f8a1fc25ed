"""DINO's decoder: queries with boxes, which every layer refines."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...utils.precision import at_least_float32
from .boxes import inverse_sigmoid
from .deformable_attention import DeformableAttention
from .encoder import Places
from .positional import box_positions


class Predictions(NamedTuple):
    """What queries say, after each of L layers.

    Fields:
        logits: (L, B, Q, K), one independent score for every class.
        boxes: (L, B, Q, 4) float32 cx, cy, w, h in 0..1, fractions of the image without padding.
    """

    logits: Tensor
    boxes: Tensor


class MLP(nn.Module):
    """`layers` linear layers with ReLU between them; hidden width is the input's."""

    def __init__(self, dim: int, out: int, layers: int, inputs: int | None = None):
        super().__init__()
        widths = [inputs or dim, *[dim] * (layers - 1), out]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


def class_head(dim: int, num_classes: int) -> nn.Linear:
    """A linear layer whose scores start at 0.01 (arXiv 1708.02002, section 4.1)."""
    head = nn.Linear(dim, num_classes)
    nn.init.constant_(head.bias, -math.log(99.0))
    return head


def box_head(dim: int) -> MLP:
    """Three layers to a shift of the box before the sigmoid, at first 0."""
    head = MLP(dim, 4, 3)
    nn.init.zeros_(head.layers[-1].weight)
    nn.init.zeros_(head.layers[-1].bias)
    return head


class DecoderLayer(nn.Module):
    """Self-attention of the queries, deformable attention to the maps, MLP; each added and normalized."""

    def __init__(self, dim: int, heads: int, hidden: int, levels: int, points: int):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(dim)
        self.cross_attn = DeformableAttention(dim, heads, levels, points)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        reference: Tensor,
        memory: Tensor,
        places: Places,
        blocked: Tensor | None,
    ) -> Tensor:
        """
        Args:
            x, positions: (B, Q, dim), content and embedded boxes of the queries.
            reference: (B, Q, L, 4) boxes on every map.
            memory: (B, S, dim).
            blocked: (Q, Q) bool, True where a query (row) may not see another.
        """
        q = x + positions
        x = self.norm2(x + self.self_attn(q, q, x, attn_mask=blocked, need_weights=False)[0])
        x = self.norm1(x + self.cross_attn(x + positions, reference, memory, places.shapes, places.padding))
        return self.norm3(x + self.linear2(F.relu(self.linear1(x))))


class Decoder(nn.Module):
    """Layers, and the heads that read their output.

    Args:
        layers: number of layers.
        dim, heads, hidden, levels, points: of every layer.
        share_heads: all layers have one class head and one box head, as the released models have.
    """

    def __init__(
        self,
        layers: int,
        dim: int,
        heads: int,
        hidden: int,
        levels: int,
        points: int,
        num_classes: int,
        share_heads: bool,
    ):
        super().__init__()
        self.dim = dim
        self.layers = nn.ModuleList(DecoderLayer(dim, heads, hidden, levels, points) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.ref_point_head = MLP(dim, dim, 2, inputs=2 * dim)
        # A shared head is held, and saved, once.
        count = 1 if share_heads else layers
        self.class_embed = nn.ModuleList(class_head(dim, num_classes) for _ in range(count))
        self.bbox_embed = nn.ModuleList(box_head(dim) for _ in range(count))

    def forward(
        self, x: Tensor, boxes: Tensor, memory: Tensor, places: Places, blocked: Tensor | None = None
    ) -> Predictions:
        """
        Args:
            x: (B, Q, dim) content of the queries.
            boxes: (B, Q, 4) float32 cx, cy, w, h, fractions of the image; 0..1, though larger sides do.
            memory: (B, S, dim) from the encoder.
            blocked: see :class:`DecoderLayer`.
        """
        logits, found = [], []
        reference = previous = boxes
        valid = places.valid.repeat(1, 1, 2)[:, None]
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            head = i % len(self.bbox_embed)
            on_maps = reference[:, :, None] * valid
            # The embedding is of the box on the finest map.
            positions = self.ref_point_head(box_positions(on_maps[:, :, 0], self.dim))
            x = layer(x, positions, on_maps, memory, places, blocked)
            normed = self.norm(x)
            logits.append(self.class_embed[head](normed))
            # Look forward twice (section 3.4): this layer's loss also moves the box that came from the
            # layer before, though what the next layer starts from is cut off.
            shift = at_least_float32(self.bbox_embed[head](normed))
            found.append((shift + inverse_sigmoid(previous)).sigmoid())
            if i < last:
                previous = (at_least_float32(self.bbox_embed[head](x)) + inverse_sigmoid(reference)).sigmoid()
                reference = previous.detach()
        return Predictions(torch.stack(logits), torch.stack(found))
