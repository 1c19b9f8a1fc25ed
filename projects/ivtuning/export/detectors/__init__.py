"""Detectors as modules from a batch of images to padded detections, which torch.export and ONNX can hold.

detectron2 selects boxes by masks, so that the shapes of its results depend on the data. Here every number
of boxes is fixed, and what is left over is padding. Boxes, scores and classes are those of the model's own
inference.
"""

from __future__ import annotations

from ... import compat

compat.prepare()

from detectron2.modeling import GeneralizedRCNN, RetinaNet  # noqa: E402
from torch import nn  # noqa: E402

from ...errors import UserError  # noqa: E402
from ...heads.dino import DINO  # noqa: E402
from .base import DetectorGraph  # noqa: E402
from .dino import DINODetections, DINOOutputs  # noqa: E402
from .rcnn import RCNNDetections, RCNNOutputs  # noqa: E402
from .retinanet import RetinaNetDetections, RetinaNetOutputs  # noqa: E402

__all__ = ["DetectorGraph", "detections", "raw_outputs"]

# The graphs of each family of detectors: detections, and outputs of the heads.
_GRAPHS = {
    GeneralizedRCNN: (RCNNDetections, RCNNOutputs),
    RetinaNet: (RetinaNetDetections, RetinaNetOutputs),
    DINO: (DINODetections, DINOOutputs),
}


def detections(model: nn.Module) -> DetectorGraph:
    """A module that computes the detections of `model`, whose parameters it shares.

    Its outputs are "boxes" (B, N, 4) float32 x1, y1, x2, y2 in pixels of the input image and within it,
    "scores" (B, N) in 0..1, descending, "labels" (B, N) int64, and "count" (B,) int64: entries from "count"
    on are 0. Mask R-CNN adds "masks" (B, N, h, w), probabilities in 0..1 on a grid that fills the box;
    detectron2's paste_masks_in_image puts them into the image.

    Raises:
        UserError: the model is no detector, or one whose detections have no such form.
    """
    return _find(model)[0](model)


def raw_outputs(model: nn.Module) -> DetectorGraph:
    """A module that computes the outputs of the heads of `model`, before scores are ranked.

    See :class:`.rcnn.RCNNOutputs`, :class:`.retinanet.RetinaNetOutputs` and :class:`.dino.DINOOutputs`.

    Raises:
        UserError: the model is no detector, or of an unknown kind.
    """
    return _find(model)[1](model)


def _find(model: nn.Module) -> tuple[type[DetectorGraph], type[DetectorGraph]]:
    if getattr(getattr(model, "anchor_generator", None), "box_dim", 4) != 4:
        raise UserError(f"{type(model).__name__} has oriented boxes: only upright ones can be exported")
    for family, graphs in _GRAPHS.items():
        if isinstance(model, family):
            return graphs
    raise UserError(
        f"{type(model).__name__} cannot be exported as a detector: give the config of a Faster, Mask or "
        "Cascade R-CNN, RetinaNet, DINO or Co-DINO"
    )
