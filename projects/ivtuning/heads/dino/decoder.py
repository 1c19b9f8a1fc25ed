"""DINO's decoder: queries with boxes, which every layer refines."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...utils.precision import at_least_float32
from .boxes import inverse_sigmoid
from .deformable_attention import MultiScaleDeformableAttention
from .encoder import FeatureLayout
from .positional import box_positions


class Predictions(NamedTuple):
    """Classes and boxes of Q queries after each of L layers.

    Fields:
        logits: (L, B, Q, K), one independent score for every class.
        boxes: (L, B, Q, 4) float32 cx, cy, w, h in 0..1, fractions of the image without padding.
    """

    logits: Tensor
    boxes: Tensor


class MLP(nn.Module):
    """`num_layers` linear layers with ReLU between them; the hidden width is `dim`."""

    def __init__(self, dim: int, output_dim: int, num_layers: int, input_dim: int | None = None):
        super().__init__()
        widths = [input_dim or dim, *[dim] * (num_layers - 1), output_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


def class_head(dim: int, num_classes: int) -> nn.Linear:
    """A linear layer whose scores start at 0.01 (RetinaNet, arXiv 1708.02002, section 4.1)."""
    head = nn.Linear(dim, num_classes)
    nn.init.constant_(head.bias, -math.log(99.0))
    return head


def box_head(dim: int) -> MLP:
    """Three layers that predict a shift of the box before the sigmoid; it starts at 0."""
    head = MLP(dim, 4, 3)
    nn.init.zeros_(head.layers[-1].weight)
    nn.init.zeros_(head.layers[-1].bias)
    return head


class DecoderLayer(nn.Module):
    """Self-attention of the queries, deformable attention to the maps and an MLP, each with a norm after."""

    def __init__(
        self, embed_dim: int, num_heads: int, feedforward_dim: int, num_levels: int, num_points: int
    ):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(embed_dim, num_heads, batch_first=True)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.cross_attn = MultiScaleDeformableAttention(embed_dim, num_heads, num_levels, num_points)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.linear1 = nn.Linear(embed_dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, embed_dim)
        self.norm3 = nn.LayerNorm(embed_dim)

    def forward(
        self,
        query: Tensor,
        query_pos: Tensor,
        reference_points: Tensor,
        memory: Tensor,
        layout: FeatureLayout,
        attn_mask: Tensor | None,
    ) -> Tensor:
        """
        Args:
            query, query_pos: (B, Q, dim), content of the queries and their embedded boxes.
            reference_points: (B, Q, L, 4), the queries' boxes on every map.
            memory: (B, S, dim), the encoder's output.
            attn_mask: (Q, Q) bool. Attention mask: True where a query (row) must not attend.
        """
        q = query + query_pos
        attended, _ = self.self_attn(q, q, query, attn_mask=attn_mask, need_weights=False)
        query = self.norm2(query + attended)
        attended = self.cross_attn(
            query + query_pos, reference_points, memory, layout.spatial_shapes, layout.padding_mask
        )
        query = self.norm1(query + attended)
        return self.norm3(query + self.linear2(F.relu(self.linear1(query))))


class Decoder(nn.Module):
    """The decoder layers, and the heads that turn their output into classes and boxes.

    Args:
        num_layers: number of layers.
        num_classes: K.
        share_heads: all layers have one class head and one box head, as the released models have.
        embed_dim, **layer: arguments of every :class:`DecoderLayer`.
    """

    def __init__(self, num_layers: int, num_classes: int, share_heads: bool, embed_dim: int, **layer: int):
        super().__init__()
        self.embed_dim = embed_dim
        self.layers = nn.ModuleList(DecoderLayer(embed_dim, **layer) for _ in range(num_layers))
        self.norm = nn.LayerNorm(embed_dim)
        self.ref_point_head = MLP(embed_dim, embed_dim, 2, input_dim=2 * embed_dim)
        # A shared head is held, and saved, once.
        count = 1 if share_heads else num_layers
        self.class_embed = nn.ModuleList(class_head(embed_dim, num_classes) for _ in range(count))
        self.bbox_embed = nn.ModuleList(box_head(embed_dim) for _ in range(count))

    def forward(
        self,
        query: Tensor,
        boxes: Tensor,
        memory: Tensor,
        layout: FeatureLayout,
        attn_mask: Tensor | None = None,
    ) -> Predictions:
        """
        Args:
            query: (B, Q, dim) content of the queries.
            boxes: (B, Q, 4) float32 cx, cy, w, h, fractions of the image in 0..1; larger sides work too.
            memory: (B, S, dim), the encoder's output.
            attn_mask: as in :class:`DecoderLayer`.
        """
        all_logits, all_boxes = [], []
        reference = previous = boxes
        valid_ratios = layout.valid_ratios.repeat(1, 1, 2)[:, None]
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            head = i % len(self.bbox_embed)
            reference_points = reference[:, :, None] * valid_ratios
            # The embedding is of the box on the finest map.
            query_pos = self.ref_point_head(box_positions(reference_points[:, :, 0], self.embed_dim))
            query = layer(query, query_pos, reference_points, memory, layout, attn_mask)
            normed = self.norm(query)
            all_logits.append(self.class_embed[head](normed))
            # Look forward twice (section 3.4): the loss of this layer also trains the box of the layer
            # before, but the box that the next layer starts from is detached.
            shift = at_least_float32(self.bbox_embed[head](normed))
            all_boxes.append((shift + inverse_sigmoid(previous)).sigmoid())
            if i < last:
                shift = at_least_float32(self.bbox_embed[head](query))
                previous = (shift + inverse_sigmoid(reference)).sigmoid()
                reference = previous.detach()
        return Predictions(torch.stack(all_logits), torch.stack(all_boxes))
