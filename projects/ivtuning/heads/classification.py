"""Image classification on a tuned trunk: global average pooling and one linear layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ..meta_arch import PairedInput
from ..necks.pooled import PooledTrunk


class _Pixels(nn.Module):
    """The statistics of the pixels as buffers, which :class:`PairedInput` normalizes with."""

    def __init__(self, *, pixel_mean: Sequence[float], pixel_std: Sequence[float]):
        super().__init__()
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device


class ImageClassifier(PairedInput, _Pixels):
    """A classifier of pairs or of visible images: pooled trunk, linear layer, cross-entropy.

    Args:
        backbone: has its trunk at `backbone.net`.
        num_classes: K, at least 2. The layer's weights start normal with std 0.01.
        pixel_mean, pixel_std: on 0..255; six values each for pairs, three for the visible image alone.
        fill_missing: what replaces a missing image, see :class:`ivtuning.meta_arch.PairedInput`.

    Raises:
        UserError: fewer than two classes, or another number of pixel means or deviations.
    """

    def __init__(
        self,
        backbone: PooledTrunk,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        fill_missing: str = "error",
    ):
        if num_classes < 2:
            raise UserError(f"model.num_classes={num_classes}: a classifier needs at least 2 classes")
        super().__init__(pixel_mean=pixel_mean, pixel_std=pixel_std, fill_missing=fill_missing)
        self.backbone = backbone
        self.head = nn.Linear(backbone.channels, num_classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """
        Args:
            batched_inputs: dicts with "image" (3, H, W) uint8 RGB and, of pairs, "image_ir", all of one size;
                in training with "label", an int from 0.

        Returns:
            In training {"loss_cls": mean cross-entropy}; else, for each image, {"scores": (K,) float},
            probabilities of the classes.

        Raises:
            UserError: images of several sizes, a missing label, or a label that no class of the model has; a
                missing image that is not filled in, see :func:`ivtuning.meta_arch.stack_pair`.
        """
        labels = self._labels(batched_inputs) if self.training else None
        scores = self.head(self.backbone(self._images(batched_inputs)))
        if labels is None:
            return [{"scores": s} for s in scores.float().softmax(1)]
        return {"loss_cls": F.cross_entropy(scores, labels)}

    def _images(self, batched_inputs: list[dict]) -> Tensor:
        images = self.normalize(batched_inputs)
        if len(sizes := {tuple(image.shape[1:]) for image in images}) > 1:
            # Padding would become part of the mean.
            examples = " and ".join(f"{w}x{h}" for h, w in sorted(sizes)[:2])
            raise UserError(
                f"a batch has images of {examples} pixels: end the mapper's augmentations with a crop or "
                "a resize to one size"
            )
        return torch.stack(images)

    def _labels(self, batched_inputs: list[dict]) -> Tensor:
        num_classes = self.head.out_features
        for x in batched_inputs:
            if not 0 <= x.get("label", -1) < num_classes:
                raise UserError(
                    f"{x.get('file_name', 'a sample')}: label {x.get('label')} is not one of the "
                    f"model's {num_classes} classes (counted from 0): set model.num_classes to the data set's"
                )
        return torch.tensor([x["label"] for x in batched_inputs]).to(self.device, non_blocking=True)
