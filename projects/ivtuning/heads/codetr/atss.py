"""The ATSS head (arXiv 1912.02424) that trains along: a score, a box and a centredness for every anchor."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Instances
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from ...errors import UserError
from ...utils.precision import at_least_float32
from ..dino.boxes import generalized_iou
from ..dino.criterion import mean_over_processes
from ..dino.decoder import class_head
from .assignment import assign
from .regions import Regions


def centredness(boxes: Tensor, objects: Tensor) -> Tensor:
    """(N,) 1 where the center of a box is that of its object, falling to 0 at the object's border.

    Args:
        boxes, objects: (N, 4) x1, y1, x2, y2; the boxes' centers lie inside the objects.
    """
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    low, high = center - objects[:, :2], objects[:, 2:] - center
    return (torch.minimum(low, high) / torch.maximum(low, high)).prod(1).sqrt()


class ATSSHead(nn.Module):
    """Two towers of convolutions over all maps, one anchor at every place.

    Args:
        dim: channels, a multiple of 32.
        num_classes: K.
        anchor_generator: of as many maps as there will be.
        convs: 3x3 convolutions with GroupNorm(32) and ReLU of either tower.
        class_weight: of the focal loss (alpha 0.25, gamma 2), divided by the number of positive anchors.
        box_weight: of 1 - generalized IoU, each anchor's weighted with its centredness, divided by their sum.
        centredness_weight: of the binary cross-entropy, divided by the number of positive anchors.

    Raises:
        UserError: several anchors at one place.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        anchor_generator: DefaultAnchorGenerator,
        convs: int = 1,
        class_weight: float = 12.0,
        box_weight: float = 24.0,
        centredness_weight: float = 12.0,
    ):
        super().__init__()
        if set(anchor_generator.num_anchors) != {1}:
            raise UserError("model.atss.anchor_generator: give one size and one aspect ratio for every map")
        self.num_classes, self.anchor_generator = num_classes, anchor_generator
        self.weights = (class_weight, box_weight, centredness_weight)
        self.box2box_transform = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))

        def convolution(out: int, **options) -> Conv2d:
            layer = Conv2d(dim, out, 3, padding=1, **options)
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
            return layer

        def tower() -> nn.ModuleList:
            options = dict(bias=False, activation=F.relu)
            return nn.ModuleList(
                convolution(dim, norm=nn.GroupNorm(32, dim), **options) for _ in range(convs)
            )

        self.cls_convs, self.reg_convs = tower(), tower()
        self.cls_score = convolution(num_classes)
        self.cls_score.bias.data.copy_(class_head(1, num_classes).bias)
        self.bbox_pred, self.centerness = convolution(4), convolution(1)
        self.scales = nn.ParameterList(torch.ones(()) for _ in anchor_generator.num_anchors)

    def forward(
        self, maps: list[Tensor], instances: list[Instances]
    ) -> tuple[dict[str, Tensor], list[Regions]]:
        """
        Args:
            maps: (B, dim, H, W) each, finest first.
            instances: of each image, with gt_boxes and gt_classes.

        Returns:
            Weighted losses "loss_atss_cls", "loss_atss_loc" and "loss_atss_ctr", and of each image all its
            anchors with what they answer for.
        """
        anchors = [level.tensor for level in self.anchor_generator(maps)]
        regions = [self.label(anchors, x) for x in instances]
        losses = zip(
            ("cls", "loc", "ctr"), self.weights, self.losses(*self.predict(maps), regions), strict=True
        )
        return {f"loss_atss_{name}": weight * loss for name, weight, loss in losses}, regions

    def predict(self, maps: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Class logits (B, N, K), deltas (B, N, 4) and logits of the centredness (B, N), float32."""
        logits, deltas, centers = [], [], []
        for x, scale in zip(maps, self.scales, strict=True):
            by_class = by_box = x
            for layer in self.cls_convs:
                by_class = layer(by_class)
            for layer in self.reg_convs:
                by_box = layer(by_box)
            logits.append(self.cls_score(by_class))
            deltas.append(self.bbox_pred(by_box) * scale)
            centers.append(self.centerness(by_box))
        logits, deltas, centers = (
            at_least_float32(torch.cat([x.flatten(2).transpose(1, 2) for x in level], 1))
            for level in (logits, deltas, centers)
        )
        return logits, deltas, centers[..., 0]

    def label(self, anchors: list[Tensor], instances: Instances) -> Regions:
        """One image's anchors and what they answer for."""
        boxes = instances.gt_boxes.tensor
        owner = assign(anchors, boxes)
        # One row more, for the index -1 of those that answer for nothing.
        labels = F.pad(instances.gt_classes, (0, 1), value=self.num_classes)[owner]
        return Regions(torch.cat(anchors), labels, F.pad(boxes, (0, 0, 0, 1))[owner])

    def losses(self, logits: Tensor, deltas: Tensor, centers: Tensor, regions: list[Regions]) -> list[Tensor]:
        """The losses, not weighted, of what :meth:`predict` returns."""
        labels = torch.stack([r.labels for r in regions])
        image, place = positive = (labels < self.num_classes).nonzero(as_tuple=True)
        wanted = torch.zeros_like(logits)
        wanted[image, place, labels[positive]] = 1
        anchors = regions[0].boxes[place]
        objects = torch.stack([r.objects for r in regions])[positive]
        worth = centredness(anchors, objects)
        found = self.box2box_transform.apply_deltas(deltas[positive], anchors)
        # An image without positive anchors counts as if it had one.
        count = image.bincount(minlength=len(labels)).clamp(min=1).sum().to(worth.dtype)
        count, total = mean_over_processes(torch.stack([count, worth.sum()])).clamp(min=1)
        return [
            sigmoid_focal_loss(logits, wanted, reduction="sum") / count,
            (worth * (1 - generalized_iou(found, objects))).sum() / total,
            F.binary_cross_entropy_with_logits(centers[positive], worth, reduction="sum") / count,
        ]
