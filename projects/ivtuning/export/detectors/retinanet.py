"""RetinaNet's graph."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import NAMES, DetectorGraph, best, pack, pick
from .nms import nms


class RetinaNetOutputs(DetectorGraph):
    """Outputs of RetinaNet's head for all A anchors, level by level, finest first.

    "logits" (B, A, K), one independent score for each class before the sigmoid, and "boxes" (B, A, 4) float32
    x1, y1, x2, y2 in pixels, neither clipped nor suppressed.
    """

    names = ["logits", "boxes"]

    def compute(self, images: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, ...]:
        logits, deltas, anchors = self.predict(images)
        boxes = [self.decode(d, a.expand(d.shape[0], -1, -1)) for d, a in zip(deltas, anchors, strict=True)]
        return torch.cat(logits, 1), torch.cat(boxes, 1)

    def predict(self, images: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Logits (B, A, K), deltas (B, A, 4) and anchors (A, 4) of every level."""
        model = self.model
        features = model.backbone(images)
        features = [features[name] for name in model.head_in_features]
        logits, deltas = model._transpose_dense_predictions(model.head(features), [model.num_classes, 4])
        return logits, deltas, [boxes.tensor for boxes in model.anchor_generator(features)]

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Boxes (B, N, 4) from deltas and anchors of this shape."""
        boxes = self.model.box2box_transform.apply_deltas(deltas.flatten(0, 1), anchors.flatten(0, 1))
        return boxes.view(deltas.shape)


class RetinaNetDetections(RetinaNetOutputs):
    """RetinaNet's detections; see :func:`..detections`."""

    names = NAMES

    def compute(self, images: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, ...]:
        model = self.model
        candidates = []
        for logits, deltas, anchors in zip(*self.predict(images), strict=True):
            scores = logits.float().sigmoid().flatten(1)
            scores, index, valid = best(scores, scores > model.test_score_thresh, model.test_topk_candidates)
            anchor = index // model.num_classes
            boxes = self.decode(pick(deltas, anchor), anchors[anchor])
            candidates.append((boxes, scores, index % model.num_classes, valid))
        boxes, scores, labels, valid = (torch.cat(parts, 1) for parts in zip(*candidates, strict=True))
        of_class = F.one_hot(labels, model.num_classes).mT.bool() & valid[:, None]
        limit = model.max_detections_per_image
        kept = nms(
            boxes,
            scores[:, None].masked_fill(~of_class, -1.0),
            model.test_nms_thresh,
            max(0.0, model.test_score_thresh),
            limit,
        )
        scores, index, valid = best(scores, kept.any(1), limit)
        return pack(pick(boxes, index), scores, labels.gather(1, index), valid, image_size)
