"""Co-DINO's transformer: DINO's, whose decoder takes groups of queries more."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..dino.positional import box_positions
from ..dino.transformer import Queries, Transformer


class CoTransformer(Transformer):
    """DINO's transformer (see :class:`..dino.Transformer` for its arguments), with heads for every layer.

    Args:
        groups: number of auxiliary heads that give queries.
    """

    def __init__(self, *args, groups: int = 2, share_heads: bool = False, **kwargs):
        super().__init__(*args, share_heads=share_heads, **kwargs)
        self.aux_pos_trans = nn.ModuleList(nn.Linear(2 * self.dim, self.dim) for _ in range(groups))
        self.aux_pos_trans_norm = nn.ModuleList(nn.LayerNorm(self.dim) for _ in range(groups))
        for layer in self.aux_pos_trans:
            nn.init.xavier_uniform_(layer.weight)

    def join(self, queries: Queries, groups: list[Tensor]) -> Queries:
        """`queries`, and after them a group of their own for each of `groups`.

        The content of the new ones is an embedding of their boxes (section 3.3). No query of a group sees one
        outside of it, or is seen by it.

        Args:
            groups: boxes (B, Q_i, 4) cx, cy, w, h, fractions of the image.
        """
        content, boxes, sees = [queries.content], [queries.boxes], []
        for found, layer, norm in zip(groups, self.aux_pos_trans, self.aux_pos_trans_norm, strict=True):
            # In the order x, y, w, h, other than where the decoder embeds boxes.
            position = box_positions(found.clamp(0, 1)[..., [1, 0, 2, 3]], self.dim)
            content.append(norm(layer(position)))
            boxes.append(found)
            sees.append(found.new_ones(found.shape[1], found.shape[1]))
        size = queries.content.shape[1]
        own = (
            boxes[0].new_ones(size, size)
            if queries.blocked is None
            else (~queries.blocked).to(boxes[0].dtype)
        )
        blocked = torch.block_diag(own, *sees) == 0
        return queries._replace(content=torch.cat(content, 1), boxes=torch.cat(boxes, 1), blocked=blocked)
