"""Graphs of DINO and Co-DINO."""

from __future__ import annotations

import torch
from detectron2.structures import ImageList
from torch import Tensor

from ...errors import UserError
from ...heads.codetr import CoDINO
from ...heads.dino import DINO
from .base import NAMES, DetectorGraph, pack


class DINOOutputs(DetectorGraph):
    """The last layer's predictions of all Q queries.

    "logits" (B, Q, K), one independent score for each class before the sigmoid, and "boxes" (B, Q, 4) float32
    cx, cy, w, h as fractions of the image without its padding.
    """

    names = ["logits", "boxes"]
    ranked: tuple[str, ...] = ("logits", "boxes")
    # The sizes of images and maps become constants, of which positions and reference points are made.
    any_size = False
    rounding_risk = "rounding changes the order of positions, which gives queries their learned content"

    def compute(self, images: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, ...]:
        model, padded = self.model, tuple(images.shape[-2:])
        fills = isinstance(model, CoDINO) and model.pad_value is not None
        if fills:
            rows = torch.arange(padded[0], device=images.device) < image_size[0]
            columns = torch.arange(padded[1], device=images.device) < image_size[1]
            gray = (model.pad_value - model.pixel_mean) / model.pixel_std
            images = images.where(rows[:, None] & columns, gray.to(images.dtype))
        # One size stands for all images, so that the batch can have any number of them.
        size = padded if fills else image_size
        decoder, _ = model.transformer(*model.features(ImageList(images, [size])))
        logits, boxes = decoder.logits[-1], decoder.boxes[-1]
        if fills:
            height, width = padded[0] / image_size[0], padded[1] / image_size[1]
            boxes = boxes * boxes.new_tensor([width, height, width, height])
        return logits, boxes


class DINODetections(DINOOutputs):
    """The highest-scoring pairs of a query and a class; see :func:`..detections`."""

    names = NAMES
    ranked = ()

    def __init__(self, model: DINO):
        super().__init__(model)
        if getattr(model, "soft_nms", None) is not None:
            raise UserError(
                "model.soft_nms: soft-NMS lowers one score after another, which no graph can: set "
                "model.soft_nms=null, or export with --stage raw"
            )

    def compute(self, images: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, ...]:
        logits, boxes = super().compute(images, image_size)
        boxes, scores, labels = self.model.top_pairs(logits, boxes, self.model.max_detections_per_image)
        height, width = image_size
        boxes = boxes * boxes.new_tensor([width, height, width, height])
        return pack(boxes, scores, labels, torch.ones_like(labels, dtype=torch.bool), image_size)
