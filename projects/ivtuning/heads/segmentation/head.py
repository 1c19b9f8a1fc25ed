"""The semantic segmentation head: a decoder, its loss, and auxiliary decoders for training."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ...data.labels import IGNORE
from ...errors import UserError
from ...utils.precision import at_least_float32
from .blocks import resize
from .losses import CrossEntropy, Loss, check_targets

log = logging.getLogger(__name__)


class SemSegHead(nn.Module):
    """The `sem_seg_head` of a segmentor.

    With one class, every labeled pixel has that class: the loss is a binary cross-entropy with positive
    targets alone, and every prediction is correct by definition. That runs, but the model learns nothing
    useful, so a warning says to add a class for the rest.

    Args:
        decoder: turns features into logits (B, K, h, w).
        num_classes: K.
        loss: see losses.py; the auxiliary decoders use it too. None: plain cross-entropy.
        auxiliary: decoders that are used in training only.
        auxiliary_weight: weight of each auxiliary loss; SETR, UPerNet and PSPNet have 0.4.
        neck: turns features into features for all decoders (SETR-MLA).
        ignore_value: value of pixels without a label in `targets`.

    Raises:
        UserError: a decoder has another number of classes.
    """

    def __init__(
        self,
        decoder: nn.Module,
        num_classes: int,
        loss: Loss | None = None,
        auxiliary: Sequence[nn.Module] = (),
        auxiliary_weight: float = 0.4,
        neck: nn.Module | None = None,
        ignore_value: int = IGNORE,
    ):
        super().__init__()
        for module in (decoder, *auxiliary):
            if (classes := getattr(module, "num_classes", num_classes)) != num_classes:
                raise UserError(
                    f"{type(module).__name__} has {classes} classes, the head {num_classes}: "
                    "set both num_classes to the same number"
                )
        if num_classes == 1:
            log.warning("one class: every prediction counts as correct; add a class for the rest")
        self.neck = neck
        self.decoder = decoder
        self.auxiliary = nn.ModuleList(auxiliary)
        self.loss = CrossEntropy() if loss is None else loss
        self.num_classes, self.ignore_value = num_classes, ignore_value
        self.auxiliary_weight = auxiliary_weight

    def forward(
        self, features: Mapping[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """
        Args:
            features: the backbone's maps (B, C, h, w).
            targets: (B, H, W) int64 class ids; in training only.

        Returns:
            In training (None, {"loss_sem_seg", "loss_sem_seg_aux0", ...}): the logits are resized to the
            targets, in float32. Else (logits (B, K, h, w) at the decoder's stride, {}).

        Raises:
            UserError: training without targets. Ids that no class has are :meth:`check`'s to find.
        """
        if self.training:
            targets = self._targets(targets)
        if self.neck is not None:
            features = self.neck(features)
        logits = self.decoder(features)
        if not self.training:
            return logits, {}
        losses = {"loss_sem_seg": self._loss(logits, targets)}
        for i, decoder in enumerate(self.auxiliary):
            loss = self._loss(decoder(features), targets)
            losses[f"loss_sem_seg_aux{i}"] = self.auxiliary_weight * loss
        return None, losses

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.loss(resize(at_least_float32(logits), targets.shape[-2:]), targets)

    def _targets(self, targets: Tensor | None) -> Tensor:
        if targets is None:
            raise UserError("training needs labels: give a dataset whose samples have sem_seg_file_name")
        return self._ignoring(targets)

    def check(self, labels: Tensor, where: str) -> None:
        """Refuse ids that no class has; see :func:`check_targets`. The host waits for labels on a device."""
        check_targets(self._ignoring(labels), self.num_classes, where)

    def _ignoring(self, targets: Tensor) -> Tensor:
        if self.ignore_value == IGNORE:
            return targets
        return targets.masked_fill(targets == self.ignore_value, IGNORE)
