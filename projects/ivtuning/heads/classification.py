"""Image classification on a tuned trunk: global average pooling and one linear layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ..meta_arch import check_pixels
from ..necks.pooled import PooledTrunk


class ImageClassifier(nn.Module):
    """A classifier of visible images: pooled trunk, linear layer (normal with std 0.01), cross-entropy.

    Args:
        backbone: has its trunk at `backbone.net`.
        num_classes: K, at least 2.
        pixel_mean, pixel_std: three values each, on 0..255.

    Raises:
        UserError: fewer than two classes, or another number of pixel means or deviations.
    """

    def __init__(
        self, backbone: PooledTrunk, num_classes: int, pixel_mean: Sequence[float], pixel_std: Sequence[float]
    ):
        super().__init__()
        if num_classes < 2:
            raise UserError(f"model.num_classes={num_classes}: a classifier needs at least 2 classes")
        check_pixels(pixel_mean, pixel_std)
        if not len(pixel_mean) == len(pixel_std) == 3:
            raise UserError(
                "a classifier takes visible images: give pixel_mean and pixel_std three values each"
            )
        self.backbone = backbone
        self.head = nn.Linear(backbone.channels, num_classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """
        Args:
            batched_inputs: dicts with "image" (3, H, W) uint8 RGB, all of one size, and in training with
                "label", an int from 0.

        Returns:
            In training {"loss_cls": mean cross-entropy}; else, for each image, {"scores": (K,) float},
            probabilities of the classes.

        Raises:
            UserError: images of several sizes, a missing label, or a label that no class of the model has.
        """
        labels = self._labels(batched_inputs) if self.training else None
        scores = self.head(self.backbone(self._images(batched_inputs)))
        if labels is None:
            return [{"scores": s} for s in scores.float().softmax(1)]
        return {"loss_cls": F.cross_entropy(scores, labels)}

    def _images(self, batched_inputs: list[dict]) -> Tensor:
        images = [x["image"] for x in batched_inputs]
        if len(sizes := {tuple(image.shape[1:]) for image in images}) > 1:
            # Padding would become part of the mean.
            examples = " and ".join(f"{w}x{h}" for h, w in sorted(sizes)[:2])
            raise UserError(
                f"a batch has images of {examples} pixels: end the mapper's augmentations with a crop"
            )
        return (torch.stack(images).to(self.pixel_mean.device) - self.pixel_mean) / self.pixel_std

    def _labels(self, batched_inputs: list[dict]) -> Tensor:
        num_classes = self.head.out_features
        for x in batched_inputs:
            if not 0 <= x.get("label", -1) < num_classes:
                raise UserError(
                    f"{x.get('file_name', 'a sample')}: label {x.get('label')} is not one of the "
                    f"model's {num_classes} classes (counted from 0): set model.num_classes to the data set's"
                )
        return torch.tensor([x["label"] for x in batched_inputs], device=self.pixel_mean.device)
