"""What the trunks' blocks share."""

from __future__ import annotations

from torch import Tensor

from ..tuning.base import Sites


class OpenBlock:
    """Mixin that opens timm's pre-norm block at the three sites of :mod:`ivtuning.tuning.base`."""

    def attend(self, x: Tensor) -> Tensor:
        return self.attn(x)

    def forward(self, x: Tensor, sites: Sites | None = None, prompt: Tensor | None = None) -> Tensor:
        x = x + self.drop_path1(self.ls1(self.attend(self.norm1(x))))
        if sites is None:
            return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        x = sites.after_attention(x, prompt)
        y = sites.on_mlp(self.ls2(self.mlp(self.norm2(x))), x)
        return sites.after_mlp(x + self.drop_path2(y), x, prompt)
