"""DINO's transformer (arXiv 2203.03605): encoder, selection of queries, decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...errors import UserError
from ...utils.precision import at_least_float32
from .boxes import inverse_sigmoid
from .decoder import Decoder, Predictions, box_head, class_head
from .deformable_attention import DeformableAttention
from .encoder import Encoder, Places, locate


class Queries(NamedTuple):
    """What the decoder starts from: its arguments.

    Fields:
        content: (B, Q, dim).
        boxes: (B, Q, 4) float32 cx, cy, w, h, fractions of the image.
        memory: (B, S, dim), the encoder's output.
        places: its geometry.
        blocked: (Q, Q) bool, True where a query (row) may not see another; None where all see all.
    """

    content: Tensor
    boxes: Tensor
    memory: Tensor
    places: Places
    blocked: Tensor | None


class Transformer(nn.Module):
    """From feature maps to predictions.

    Args:
        num_classes: K.
        dim: channels throughout; a multiple of 4 and of `heads`.
        heads, points: attention heads, and points that one samples in each map.
        hidden: width of the MLPs.
        encoder_layers, decoder_layers: their numbers.
        levels: number of maps, L.
        num_queries: matching queries; fewer where the maps have fewer places.
        temperature: of the sine embeddings of the maps' places.
        share_heads: one class head and one box head for all layers of the decoder. The encoder's output
            always has its own.

    Raises:
        UserError: `dim` does not divide.
    """

    def __init__(
        self,
        num_classes: int,
        dim: int = 256,
        heads: int = 8,
        hidden: int = 2048,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        levels: int = 4,
        points: int = 4,
        num_queries: int = 900,
        temperature: float = 20.0,
        share_heads: bool = True,
    ):
        super().__init__()
        if dim % 4 or dim % heads:
            raise UserError(f"model.transformer.dim={dim}: give a multiple of 4 and of heads={heads}")
        self.dim, self.levels, self.num_queries, self.temperature = dim, levels, num_queries, temperature
        size = (dim, heads, hidden, levels, points)
        self.encoder = Encoder(encoder_layers, *size)
        self.decoder = Decoder(decoder_layers, *size, num_classes, share_heads)
        self.level_embed = nn.Parameter(torch.empty(levels, dim))
        self.tgt_embed = nn.Embedding(num_queries, dim)
        self.enc_output = nn.Linear(dim, dim)
        self.enc_output_norm = nn.LayerNorm(dim)
        self.enc_out_class_embed = class_head(dim, num_classes)
        self.enc_out_bbox_embed = box_head(dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier's uniform for all matrices but those of the heads, which have their own start."""
        decoder = self.decoder
        for part in (self.encoder, decoder.layers, decoder.ref_point_head, self.enc_output, self.tgt_embed):
            for parameter in part.parameters():
                if parameter.ndim > 1:
                    nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, DeformableAttention):
                module.reset_parameters()
        nn.init.normal_(self.level_embed)

    def forward(
        self,
        maps: list[Tensor],
        image_sizes: list[tuple[int, int]],
        padded: tuple[int, int],
        extra: tuple[Tensor, Tensor, Callable[[int], Tensor]] | None = None,
    ) -> tuple[Predictions, Predictions]:
        """
        Args:
            maps: L maps (B, dim, H, W), finest first.
            image_sizes: height and width of every image, in pixels.
            padded: height and width of the batch, in pixels.
            extra: queries before the matching ones: content (B, D, dim), boxes (B, D, 4) before the sigmoid,
                and what tells for Q matching queries who is blocked from whom, (D + Q, D + Q) bool.

        Returns:
            The decoder's predictions, of D + Q queries after every layer, and those that the encoder's output
            gives for the places it selects, as one layer of Q.
        """
        queries, selected = self.start(*self.encode(maps, image_sizes, padded), extra)
        return self.decoder(*queries), selected

    def encode(
        self, maps: list[Tensor], image_sizes: list[tuple[int, int]], padded: tuple[int, int]
    ) -> tuple[Tensor, Places]:
        """The encoder's output (B, S, dim), the maps one after another, and its geometry."""
        shapes = [tuple(m.shape[-2:]) for m in maps]
        places = locate(shapes, image_sizes, padded, self.dim, self.temperature, maps[0].device)
        x = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)
        embeds = zip(places.positions, self.level_embed, strict=True)
        return self.encoder(x, torch.cat([position + level for position, level in embeds], 1), places), places

    def start(self, memory: Tensor, places: Places, extra: tuple | None) -> tuple[Queries, Predictions]:
        """The queries of :meth:`forward`, and what the encoder's output says of the selected places."""
        selected, boxes = self.select(memory, places)
        content = self.tgt_embed.weight[: boxes.shape[1]].expand(len(memory), -1, -1)
        start, blocked = boxes.detach(), None
        if extra is not None:
            content = torch.cat([extra[0], content], 1)
            start = torch.cat([extra[1], start], 1)
            blocked = extra[2](boxes.shape[1])
        return (
            Queries(content, start.sigmoid(), memory, places, blocked),
            Predictions(selected[None], boxes.sigmoid()[None]),
        )

    def select(self, memory: Tensor, places: Places) -> tuple[Tensor, Tensor]:
        """Mixed query selection (section 3.2): the best places give the queries' boxes, not their content.

        Returns:
            Class logits (B, Q, K) and boxes (B, Q, 4) before the sigmoid, of the places whose best class
            scores highest. Padding, and places too near to the border of the image, come last.
        """
        proposals = self.proposals(places)
        outside = places.padding | ~((proposals > 0.01) & (proposals < 0.99)).all(-1)
        memory = self.enc_output_norm(self.enc_output(memory.masked_fill(outside[..., None], 0.0)))
        logits = self.enc_out_class_embed(memory)
        score = at_least_float32(logits.detach()).amax(-1).masked_fill(outside, -torch.inf)
        best = score.topk(min(self.num_queries, score.shape[1]), 1).indices[..., None]

        def pick(values: Tensor) -> Tensor:
            return values.gather(1, best.expand(-1, -1, values.shape[-1]))

        shift = at_least_float32(self.enc_out_bbox_embed(pick(memory)))
        return pick(logits), shift + inverse_sigmoid(pick(proposals))

    def proposals(self, places: Places) -> Tensor:
        """(B, S, 4) a square box at every place, of 0.05 of the image on the finest map, doubling."""
        centers = places.centers
        size = [centers.new_full((h * w, 1), 0.05 * 2**i) for i, (h, w) in enumerate(places.shapes)]
        return torch.cat([centers, torch.cat(size).expand(len(centers), -1, 2)], -1)
