"""The trunk: a pretrained transformer as a detectron2 backbone, with two plugs, a stem and a tuner."""

from __future__ import annotations

from collections.abc import Iterator

from detectron2.modeling import Backbone
from torch import Tensor, nn

from ..errors import UserError
from ..tuning import Tuner
from .stems import Stem

PLUGS = ("stem", "tuner")


class Trunk(Backbone):
    """Base of all trunks. A subclass builds `patch_embed`, `blocks` and so on, then calls :meth:`plug`.

    "Base" means everything but the plugs: what pretrained weights fill, and what stays frozen unless the
    tuner selects it.
    """

    def plug(self, stem: Stem, tuner: Tuner, widths: list[int], frozen_eval: bool) -> None:
        """Plug in `stem` and `tuner` and freeze the base.

        Args:
            widths: channel width of every block, in order.
            frozen_eval: keep frozen parts in eval mode (no drop-path, no dropout) whatever ``train()`` says;
                False reproduces the papers' code, where the trunk's drop-path stays on in training.
        """
        stem.attach(self.patch_embed)
        tuner.attach(widths)
        self.stem, self.tuner, self.frozen_eval = stem, tuner, frozen_eval
        self.freeze()

    def freeze(self) -> None:
        """Let exactly the plugs and what the tuner selects train."""
        for parameter in self.base_parameters():
            parameter.requires_grad_(False)
        for parameter in self.tuner.select(self):
            parameter.requires_grad_(True)
        self.train(self.training)

    def named_base_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names (relative to the trunk) and parameters of the base."""
        return ((n, p) for n, p in self.named_parameters() if n.split(".")[0] not in PLUGS)

    def base_parameters(self) -> Iterator[nn.Parameter]:
        """The base's parameters."""
        return (p for _, p in self.named_base_parameters())

    def train(self, mode: bool = True) -> Trunk:
        """As usual, but frozen parts stay in eval mode where `frozen_eval` says so."""
        super().train(mode)
        if mode and getattr(self, "frozen_eval", False):
            for name, child in self.named_children():
                if name not in PLUGS:
                    _rest(child)
        return self

    def split(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, 3 or 6, H, W) -> visible and infrared (None for three channels), (B, 3, H, W) each."""
        if x.shape[1] not in (3, 6):
            raise UserError(
                f"the trunk takes 3 (visible) or 6 (visible, infrared) channels, not {x.shape[1]}: "
                "check the lengths of model.pixel_mean and model.pixel_std"
            )
        return x[:, :3], x[:, 3:] if x.shape[1] == 6 else None

    def sites(self, index: int):
        """What the tuner adds to block `index`; None where it adds nothing."""
        return None if self.tuner.blocks is None else self.tuner.blocks[index]

    def layer_id(self, name: str) -> int:
        """Depth of a base parameter for layer-wise decay: 0 the embeddings, i+1 block i, depth+1 the rest."""
        parts = name.split(".")
        if parts[0] == "blocks":
            return int(parts[1]) + 1
        return 0 if parts[0] in ("patch_embed", "pos_embed", "cls_token") else len(self.blocks) + 1


def _rest(module: nn.Module) -> None:
    """Put the largest parts of `module` in which nothing trains into eval mode."""
    if not any(p.requires_grad for p in module.parameters()):
        module.eval()
        return
    for child in module.children():
        if next(child.parameters(), None) is not None:
            _rest(child)


def find_trunk(model: nn.Module) -> tuple[str, Trunk]:
    """The trunk inside `model` (possibly wrapped in DDP) and its name there, such as "backbone.net".

    Raises:
        UserError: there is none, or more than one.
    """
    model = getattr(model, "module", model)
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, Trunk)]
    if len(found) != 1:
        raise UserError(
            f"expected one ivtuning trunk in the model, found {len(found)}: its place is model.backbone.net"
        )
    return found[0]
