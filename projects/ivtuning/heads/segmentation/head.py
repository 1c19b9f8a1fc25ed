"""The semantic segmentation head: a decoder, its loss, and auxiliary decoders for training."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ...errors import UserError
from ...utils.precision import at_least_float32
from .blocks import resize
from .losses import IGNORE, CrossEntropy, Loss, check_targets

log = logging.getLogger(__name__)


class SemSegHead(nn.Module):
    """What detectron2's SemanticSegmentor calls `sem_seg_head`.

    With one class every labeled pixel is that class: the loss is a binary cross-entropy whose targets are
    all positive, and every prediction is right by definition. That trains and evaluates, but tells nothing
    apart, and a warning says so; "this class or the rest" is two classes.

    Args:
        decoder: features -> logits (B, K, h, w).
        num_classes: K.
        loss: see losses.py; of the auxiliary decoders as well. None: plain cross-entropy.
        auxiliary: decoders that train beside the main one and are not run in evaluation.
        auxiliary_weight: factor of each auxiliary loss; 0.4 is that of SETR, UPerNet and PSPNet.
        neck: features -> features, for the decoder and the auxiliary ones alike (SETR's MLA).
        ignore_value: what pixels without a label have in `targets`.

    Raises:
        UserError: a decoder of another number of classes.
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
            if (found := getattr(module, "num_classes", num_classes)) != num_classes:
                raise UserError(
                    f"{type(module).__name__} has {found} classes, the head {num_classes}: "
                    "set both num_classes alike"
                )
        if num_classes == 1:
            log.warning("one class: every score is perfect; make the rest a class to tell it apart")
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
            targets: (B, H, W) int64, class ids; in training only.

        Returns:
            In training (None, {"loss_sem_seg", "loss_sem_seg_aux0", ...}): the logits are resized to the
            targets, in float32. Else (logits (B, K, h, w) at the decoder's stride, {}).

        Raises:
            UserError: training without targets, or with ids that are no class.
        """
        if self.training:
            targets = self._known(targets)
        if self.neck is not None:
            features = self.neck(features)
        logits = self.decoder(features)
        if not self.training:
            return logits, {}
        losses = {"loss_sem_seg": self._compare(logits, targets)}
        for i, decoder in enumerate(self.auxiliary):
            loss = self._compare(decoder(features), targets)
            losses[f"loss_sem_seg_aux{i}"] = self.auxiliary_weight * loss
        return None, losses

    def _compare(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.loss(resize(at_least_float32(logits), targets.shape[-2:]), targets)

    def _known(self, targets: Tensor | None) -> Tensor:
        if targets is None:
            raise UserError("training needs labels: give a dataset whose samples have sem_seg_file_name")
        if self.ignore_value != IGNORE:
            targets = targets.masked_fill(targets == self.ignore_value, IGNORE)
        check_targets(targets, self.num_classes)
        return targets
