"""DINO's transformer (arXiv 2203.03605): encoder, query selection, decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...errors import UserError
from ...utils.precision import at_least_float32
from .boxes import inverse_sigmoid
from .decoder import Decoder, Predictions, box_head, class_head
from .deformable_attention import MultiScaleDeformableAttention
from .encoder import Encoder, FeatureLayout, feature_layout


class DenoisingQueries(NamedTuple):
    """D queries that come before the matching ones.

    Fields:
        content: (B, D, dim).
        boxes: (B, D, 4) cx, cy, w, h before the sigmoid.
        attn_mask: gives the attention mask, (D + Q, D + Q) bool, for a number Q of matching queries.
    """

    content: Tensor
    boxes: Tensor
    attn_mask: Callable[[int], Tensor]


class Queries(NamedTuple):
    """The arguments of :class:`.decoder.Decoder`.

    Fields:
        content: (B, Q, dim).
        boxes: (B, Q, 4) float32 cx, cy, w, h, fractions of the image.
        memory: (B, S, dim), the encoder's output.
        layout: geometry of `memory`.
        attn_mask: (Q, Q) bool. Attention mask: True where a query (row) must not attend; None where every
            query attends to all.
    """

    content: Tensor
    boxes: Tensor
    memory: Tensor
    layout: FeatureLayout
    attn_mask: Tensor | None


class Transformer(nn.Module):
    """Encoder, query selection and decoder: turns feature maps into predictions.

    Args:
        num_classes: K.
        embed_dim: channels throughout; a multiple of 4 and of `num_heads`.
        num_heads: attention heads.
        feedforward_dim: hidden width of the MLPs.
        encoder_layers, decoder_layers: number of layers.
        num_levels: number of maps, L.
        num_points: points that one head samples in each map.
        num_queries: matching queries; fewer where the maps have fewer positions.
        temperature: of the sine embeddings of the maps' positions.
        share_heads: one class head and one box head for all layers of the decoder. The encoder's output
            always has its own.

    Raises:
        UserError: `embed_dim` is not such a multiple.
    """

    def __init__(
        self,
        num_classes: int,
        embed_dim: int = 256,
        num_heads: int = 8,
        feedforward_dim: int = 2048,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        num_levels: int = 4,
        num_points: int = 4,
        num_queries: int = 900,
        temperature: float = 20.0,
        share_heads: bool = True,
    ):
        super().__init__()
        if embed_dim % 4 or embed_dim % num_heads:
            raise UserError(
                f"model.transformer.embed_dim={embed_dim}: give a multiple of 4 and of num_heads={num_heads}"
            )
        self.embed_dim, self.num_levels = embed_dim, num_levels
        self.num_queries, self.temperature = num_queries, temperature
        layer = dict(
            embed_dim=embed_dim,
            num_heads=num_heads,
            feedforward_dim=feedforward_dim,
            num_levels=num_levels,
            num_points=num_points,
        )
        self.encoder = Encoder(encoder_layers, **layer)
        self.decoder = Decoder(decoder_layers, num_classes, share_heads, **layer)
        self.level_embed = nn.Parameter(torch.empty(num_levels, embed_dim))
        self.tgt_embed = nn.Embedding(num_queries, embed_dim)
        self.enc_output = nn.Linear(embed_dim, embed_dim)
        self.enc_output_norm = nn.LayerNorm(embed_dim)
        self.enc_out_class_embed = class_head(embed_dim, num_classes)
        self.enc_out_bbox_embed = box_head(embed_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize all matrices with Xavier's uniform, except in the heads, which initialize themselves."""
        decoder = self.decoder
        for part in (self.encoder, decoder.layers, decoder.ref_point_head, self.enc_output, self.tgt_embed):
            for parameter in part.parameters():
                if parameter.ndim > 1:
                    nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, MultiScaleDeformableAttention):
                module.reset_parameters()
        nn.init.normal_(self.level_embed)

    def forward(
        self,
        maps: list[Tensor],
        image_sizes: list[tuple[int, int]],
        padded_size: tuple[int, int],
        denoising: DenoisingQueries | None = None,
    ) -> tuple[Predictions, Predictions]:
        """
        Args:
            maps: L maps (B, dim, H, W), finest first.
            image_sizes: height and width of every image, in pixels.
            padded_size: height and width of the batch, in pixels.
            denoising: D queries before the Q matching ones.

        Returns:
            The decoder's predictions, of D + Q queries after every layer, and the encoder's, of the Q
            positions that query selection picks, as one layer.
        """
        queries, selected = self.init_queries(*self.encode(maps, image_sizes, padded_size), denoising)
        return self.decoder(*queries), selected

    def encode(
        self, maps: list[Tensor], image_sizes: list[tuple[int, int]], padded_size: tuple[int, int]
    ) -> tuple[Tensor, FeatureLayout]:
        """The encoder's output (B, S, dim), the maps one after another, and its geometry."""
        shapes = [tuple(m.shape[-2:]) for m in maps]
        layout = feature_layout(
            shapes, image_sizes, padded_size, self.embed_dim, self.temperature, maps[0].device
        )
        x = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)
        embeds = zip(layout.pos_embeds, self.level_embed, strict=True)
        pos_embed = torch.cat([position + level for position, level in embeds], 1)
        return self.encoder(x, pos_embed, layout), layout

    def init_queries(
        self, memory: Tensor, layout: FeatureLayout, denoising: DenoisingQueries | None
    ) -> tuple[Queries, Predictions]:
        """The decoder's queries, and the encoder's predictions at the selected positions."""
        logits, boxes = self.select_queries(memory, layout)
        content = self.tgt_embed.weight[: boxes.shape[1]].expand(memory.shape[0], -1, -1)
        initial_boxes, attn_mask = boxes.detach(), None
        if denoising is not None:
            content = torch.cat([denoising.content, content], 1)
            initial_boxes = torch.cat([denoising.boxes, initial_boxes], 1)
            attn_mask = denoising.attn_mask(boxes.shape[1])
        return (
            Queries(content, initial_boxes.sigmoid(), memory, layout, attn_mask),
            Predictions(logits[None], boxes.sigmoid()[None]),
        )

    def select_queries(self, memory: Tensor, layout: FeatureLayout) -> tuple[Tensor, Tensor]:
        """Mixed query selection (section 3.2): the best positions give the queries' boxes, not their content.

        Returns:
            Class logits (B, Q, K) and boxes (B, Q, 4) before the sigmoid, of the positions whose best class
            scores highest. Padding, and positions too near to the border of the image, come last.
        """
        proposals = self.proposals(layout).expand(memory.shape[0], -1, -1)
        outside = layout.padding_mask | ~((proposals > 0.01) & (proposals < 0.99)).all(-1)
        memory = self.enc_output_norm(self.enc_output(memory.masked_fill(outside[..., None], 0.0)))
        logits = self.enc_out_class_embed(memory)
        score = at_least_float32(logits.detach()).amax(-1).masked_fill(outside, -torch.inf)
        best = score.topk(min(self.num_queries, score.shape[1]), 1).indices[..., None]

        def pick(values: Tensor) -> Tensor:
            return values.gather(1, best.expand(-1, -1, values.shape[-1]))

        shift = at_least_float32(self.enc_out_bbox_embed(pick(memory)))
        return pick(logits), shift + inverse_sigmoid(pick(proposals))

    def proposals(self, layout: FeatureLayout) -> Tensor:
        """A square box (B, S, 4) at every position: 0.05 of the image on the finest map, doubling per map."""
        centers = layout.reference_points
        sizes = [centers.new_full((h * w, 1), 0.05 * 2**i) for i, (h, w) in enumerate(layout.spatial_shapes)]
        return torch.cat([centers, torch.cat(sizes).expand(len(centers), -1, 2)], -1)
