"""Co-DINO's transformer: DINO's, with additional groups of queries for the decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..dino.positional import box_positions
from ..dino.transformer import Queries, Transformer


class CoTransformer(Transformer):
    """DINO's transformer with heads for every layer; other arguments as in :class:`..dino.Transformer`.

    Args:
        num_co_heads: number of auxiliary heads that give queries.
    """

    def __init__(self, *args, num_co_heads: int = 2, share_heads: bool = False, **kwargs):
        super().__init__(*args, share_heads=share_heads, **kwargs)
        dim = self.embed_dim
        self.aux_pos_trans = nn.ModuleList(nn.Linear(2 * dim, dim) for _ in range(num_co_heads))
        self.aux_pos_trans_norm = nn.ModuleList(nn.LayerNorm(dim) for _ in range(num_co_heads))
        for layer in self.aux_pos_trans:
            nn.init.xavier_uniform_(layer.weight)

    def add_groups(self, queries: Queries, groups: list[Tensor]) -> Queries:
        """Append a group of queries for each auxiliary head.

        The content of the new queries is an embedding of their boxes (section 3.3). Queries attend to no
        other group, and those that were there to none of the new groups.

        Args:
            groups: boxes (B, Q_i, 4) cx, cy, w, h, fractions of the image.
        """
        content, boxes = [queries.content], [queries.boxes]
        count = queries.content.shape[1]
        attends = [
            groups[0].new_ones(count, count)
            if queries.attn_mask is None
            else (~queries.attn_mask).to(groups[0].dtype)
        ]
        for group, layer, norm in zip(groups, self.aux_pos_trans, self.aux_pos_trans_norm, strict=True):
            # The order is x, y, w, h here, unlike where the decoder embeds boxes.
            position = box_positions(group.clamp(0, 1)[..., [1, 0, 2, 3]], self.embed_dim)
            content.append(norm(layer(position)))
            boxes.append(group)
            attends.append(group.new_ones(group.shape[1], group.shape[1]))
        attn_mask = torch.block_diag(*attends) == 0
        return queries._replace(content=torch.cat(content, 1), boxes=torch.cat(boxes, 1), attn_mask=attn_mask)
