"""Semantic segmentation of pairs, as a detectron2 meta-architecture."""

from __future__ import annotations

import torch
from detectron2.modeling import SemanticSegmentor
from torch import Tensor

from ...errors import UserError
from ...meta_arch import PairedInput
from ...utils.precision import at_least_float32
from .blocks import resize
from .inference import Inference, WholeImage


class PairedSemanticSegmentor(PairedInput, SemanticSegmentor):
    """detectron2's SemanticSegmentor on pairs.

    `forward` replaces detectron2's, which does the normalization and padding itself (so it supports neither
    other paddings nor missing images) and runs the network once on the whole batch (so it supports neither
    sliding windows nor several scales).

    Args (keyword, besides :class:`PairedInput`'s and detectron2's backbone, sem_seg_head, pixel_mean and
    pixel_std):
        inference: how images are covered, see inference.py; None: WholeImage().
    """

    def __init__(self, *, inference: Inference | None = None, **kwargs):
        super().__init__(**kwargs)
        self.inference = WholeImage() if inference is None else inference

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """
        Args:
            batched_inputs: the mapper's dicts, of any sizes, see :class:`PairedInput`; in training with
                "sem_seg", (H, W) integers of the image's size. "height" and "width" give the size of the
                output, by default the image's.

        Returns:
            In training the head's losses. Else, for each image, {"sem_seg": (K, height, width) float32}:
            logits, or probabilities where `inference` averages these.

        Raises:
            UserError: see :func:`ivtuning.meta_arch.stack_pair`; labels are missing or of another size.
        """
        images = self.normalize(batched_inputs)
        if self.training:
            targets = self._targets(batched_inputs, images)
            return self.sem_seg_head(self.backbone(self.pad(images).tensor), targets)[1]
        sizes = [
            (x.get("height", image.shape[1]), x.get("width", image.shape[2]))
            for x, image in zip(batched_inputs, images, strict=True)
        ]
        return [{"sem_seg": scores} for scores in self.inference(self.logits, images, sizes)]

    def logits(self, images: list[Tensor]) -> list[Tensor]:
        """Logits (K, h, w), float32, of normalized images (C, h, w) of any sizes; they run as one batch."""
        batch = self.pad(images)
        logits, _ = self.sem_seg_head(self.backbone(batch.tensor))
        logits = resize(at_least_float32(logits), batch.tensor.shape[-2:])
        return [x[:, :h, :w] for x, (h, w) in zip(logits, batch.image_sizes, strict=True)]

    def _targets(self, batched_inputs: list[dict], images: list[Tensor]) -> Tensor:
        """The labels as one batch (B, H, W) int64, padded like the images."""
        targets = []
        for x, image in zip(batched_inputs, images, strict=True):
            name, labels = x.get("file_name", "a sample"), x.get("sem_seg")
            if labels is None:
                raise UserError(f"{name} has no 'sem_seg': train on a dataset with sem_seg_file_name")
            if labels.shape != image.shape[1:]:
                raise UserError(
                    f"{name}: labels are {tuple(labels.shape)}, the image {tuple(image.shape[1:])}: "
                    "both must be (H, W) in one frame"
                )
            self.sem_seg_head.check(labels, name)  # before the device has them: nothing waits for it
            targets.append(labels.to(image.device, torch.int64, non_blocking=True))
        return self.pad(targets, self.sem_seg_head.ignore_value).tensor
