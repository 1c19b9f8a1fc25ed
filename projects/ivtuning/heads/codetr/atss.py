"""The auxiliary ATSS head (arXiv 1912.02424): a score, a box and a centerness for every anchor."""

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
from ...tuning.options import need_number
from ...utils.precision import at_least_float32
from ..dino.boxes import generalized_iou
from ..dino.criterion import mean_over_processes
from ..dino.decoder import class_head
from .assignment import assign
from .regions import Regions


def centerness(boxes: Tensor, objects: Tensor) -> Tensor:
    """(N,) 1 where the center of a box is that of its object, falling to 0 at the object's border.

    Args:
        boxes, objects: (N, 4) x1, y1, x2, y2; the boxes' centers lie inside the objects.
    """
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    low, high = center - objects[:, :2], objects[:, 2:] - center
    return (torch.minimum(low, high) / torch.maximum(low, high)).prod(1).sqrt()


class ATSSHead(nn.Module):
    """Two stacks of convolutions that all maps share, with one anchor at every position.

    Args:
        dim: channels, a multiple of 32.
        num_classes: K.
        anchor_generator: for as many maps as there will be.
        convs: number of 3x3 convolutions with GroupNorm(32) and ReLU in each stack.
        class_weight: weight of the focal loss (alpha 0.25, gamma 2), divided by the number of positive
            anchors.
        box_weight: weight of 1 - generalized IoU, averaged over the positive anchors by their centerness.
        centerness_weight: weight of the binary cross-entropy, divided by the number of positive anchors.

    Raises:
        UserError: several anchors at one position, or a weight that is not a number from 0.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        anchor_generator: DefaultAnchorGenerator,
        convs: int = 1,
        class_weight: float = 12.0,
        box_weight: float = 24.0,
        centerness_weight: float = 12.0,
    ):
        super().__init__()
        if set(anchor_generator.num_anchors) != {1}:
            raise UserError("model.atss.anchor_generator: give one size and one aspect ratio for every map")
        weights = dict(class_weight=class_weight, box_weight=box_weight, centerness_weight=centerness_weight)
        for name, weight in weights.items():
            need_number(f"model.atss.{name}", weight, least=0)
        self.num_classes, self.anchor_generator = num_classes, anchor_generator
        self.weights = (class_weight, box_weight, centerness_weight)
        self.box2box_transform = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
        self.cls_convs, self.reg_convs = _conv_stack(dim, convs), _conv_stack(dim, convs)
        self.cls_score = _conv(dim, num_classes)
        self.cls_score.bias.data.copy_(class_head(1, num_classes).bias)
        self.bbox_pred, self.centerness = _conv(dim, 4), _conv(dim, 1)
        self.scales = nn.ParameterList(torch.ones(1) for _ in anchor_generator.num_anchors)

    def forward(
        self, maps: list[Tensor], instances: list[Instances]
    ) -> tuple[dict[str, Tensor], list[Regions]]:
        """
        Args:
            maps: (B, dim, H, W) each, finest first.
            instances: gt_boxes and gt_classes of each image.

        Returns:
            Weighted losses "loss_atss_cls", "loss_atss_loc" and "loss_atss_ctr", and for each image all its
            anchors with their objects.
        """
        anchors = [level.tensor for level in self.anchor_generator(maps)]
        regions = [self.label(anchors, x) for x in instances]
        losses = zip(
            ("cls", "loc", "ctr"), self.weights, self.losses(*self.predict(maps), regions), strict=True
        )
        return {f"loss_atss_{name}": weight * loss for name, weight, loss in losses}, regions

    def predict(self, maps: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Class logits (B, N, K), deltas (B, N, 4) and centerness logits (B, N), all float32."""
        logits, deltas, centers = [], [], []
        for x, scale in zip(maps, self.scales, strict=True):
            cls_features, reg_features = self.cls_convs(x), self.reg_convs(x)
            logits.append(self.cls_score(cls_features))
            deltas.append(self.bbox_pred(reg_features) * scale)
            centers.append(self.centerness(reg_features))
        logits, deltas, centers = (
            at_least_float32(torch.cat([x.flatten(2).transpose(1, 2) for x in level], 1))
            for level in (logits, deltas, centers)
        )
        return logits, deltas, centers[..., 0]

    def label(self, anchors: list[Tensor], instances: Instances) -> Regions:
        """The anchors of one image with their objects."""
        boxes = instances.gt_boxes.tensor
        assigned = assign(anchors, boxes)
        # One row more, for the index -1 of anchors without an object.
        labels = F.pad(instances.gt_classes, (0, 1), value=self.num_classes)[assigned]
        return Regions(torch.cat(anchors), labels, F.pad(boxes, (0, 0, 0, 1))[assigned])

    def losses(self, logits: Tensor, deltas: Tensor, centers: Tensor, regions: list[Regions]) -> list[Tensor]:
        """The losses, without weights, of what :meth:`predict` returns."""
        labels = torch.stack([r.labels for r in regions])
        image, anchor = positive = (labels < self.num_classes).nonzero(as_tuple=True)
        target_scores = torch.zeros_like(logits)
        target_scores[image, anchor, labels[positive]] = 1
        anchors = regions[0].boxes[anchor]
        objects = torch.stack([r.objects for r in regions])[positive]
        target_centerness = centerness(anchors, objects)
        boxes = self.box2box_transform.apply_deltas(deltas[positive], anchors)
        # An image without positive anchors counts as if it had one.
        count = image.bincount(minlength=len(labels)).clamp(min=1).sum().to(target_centerness.dtype)
        count, total = mean_over_processes(torch.stack([count, target_centerness.sum()])).clamp(min=1)
        centerness_loss = F.binary_cross_entropy_with_logits(
            centers[positive], target_centerness, reduction="sum"
        )
        return [
            sigmoid_focal_loss(logits, target_scores, reduction="sum") / count,
            (target_centerness * (1 - generalized_iou(boxes, objects))).sum() / total,
            centerness_loss / count,
        ]


def _conv(dim: int, out_channels: int, **options) -> Conv2d:
    """A 3x3 convolution, initialized with normal weights of std 0.01 and bias 0."""
    layer = Conv2d(dim, out_channels, 3, padding=1, **options)
    nn.init.normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _conv_stack(dim: int, count: int) -> nn.Sequential:
    return nn.Sequential(
        *(_conv(dim, dim, bias=False, norm=nn.GroupNorm(32, dim), activation=F.relu) for _ in range(count))
    )
