"""Models as functions of tensors: normalization, padding, network and predictions, without dicts or lists."""

# ruff: noqa: E402 (detectron2 is prepared before anything imports it)

from __future__ import annotations

from collections.abc import Callable, Sequence

from .. import compat

compat.prepare()

import torch
from torch import Tensor, nn

from ..backbones.patches import missing_to, pad_end
from ..backbones.trunk import find_trunk
from ..data.modalities import MODALITIES
from ..errors import UserError
from ..heads.classification import ImageClassifier
from ..heads.segmentation.blocks import resize
from ..heads.segmentation.inference import SlidingWindow, WholeImage
from ..heads.segmentation.segmentor import PairedSemanticSegmentor
from ..heads.segmentation.upernet import UPerNet
from ..utils.precision import at_least_float32
from .options import Options

Pad = Callable[[Tensor], Tensor]


class ExportedModel(nn.Module):
    """A model from images to named tensors, as its file computes it.

    Attributes:
        inputs: names of what it takes, "visible" and, for pairs, "infrared". A model that replaces a missing
            image by the mean pixel also takes "missing".
        names: names of its outputs.
        ranked: those whose rows (B, N, ...) are in the order of a score, so that rounding can swap some.
        rounding_risk: why rounding can change more than it rounds; "" if it does not.
        translations: how operators of its own are written in ONNX.
    """

    def __init__(self, model: nn.Module, options: Options):
        """
        Args:
            model: in evaluation mode; it is shared.

        Raises:
            UserError: the model, or a part of it, cannot be exported as `options` say.
        """
        super().__init__()
        self.task = task_graph(model, options)
        self.names: list[str] = list(self.task.names)
        self.ranked: tuple[str, ...] = getattr(self.task, "ranked", ())
        self.rounding_risk: str = getattr(self.task, "rounding_risk", "")
        self.translations: dict[Callable, Callable] = getattr(self.task, "translations", {})
        # Copies, because half precision would round them.
        self.register_buffer("pixel_mean", model.pixel_mean.detach().float().clone(), persistent=False)
        self.register_buffer("pixel_std", model.pixel_std.detach().float().clone(), persistent=False)
        self.inputs: list[str] = list(MODALITIES[: self.pixel_mean.numel() // 3])
        if len(self.inputs) == 2 and getattr(model, "fill_missing", "error") == "mean":
            self.inputs.append("missing")

    def forward(
        self, visible: Tensor, infrared: Tensor | None = None, missing: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """
        Args:
            visible, infrared: (B, 3, H, W) uint8 RGB; the second one for models of pairs alone.
            missing: (B, 2) bool, true where the visible or the infrared image is missing. Its pixels do not
                count then.

        Returns:
            The tensors that `names` names; floating-point ones are float32.
        """
        images = visible if infrared is None else torch.cat([visible, infrared], 1)
        images = (images - self.pixel_mean) / self.pixel_std
        if missing is not None:
            images = images.masked_fill(missing.repeat_interleave(3, 1)[:, :, None, None], 0.0)
        return tuple(self.task(images))


def task_graph(model: nn.Module, options: Options) -> nn.Module:
    """What follows the normalization: a module from (B, C, H, W) to the tensors that its `names` name."""
    pad = Padding(model, options)
    if options.stage == "backbone":
        return BackboneMaps(model, pad)
    detects = not isinstance(model, (ImageClassifier, PairedSemanticSegmentor))
    if options.stage == "detections" and not detects:
        raise UserError(
            f"{type(model).__name__} detects nothing: leave --stage out for its predictions, or give raw or "
            "backbone"
        )
    raw = options.stage == "raw"
    if isinstance(model, ImageClassifier):
        return ClassScores(model, raw)
    if isinstance(model, PairedSemanticSegmentor):
        return LabelMaps(model, pad, raw, "size" in options.dynamic)
    return PaddedDetector(model, pad, raw)


class Padding:
    """Pads a batch with zeros at the right and the bottom, as the model does; see PairedInput.pad.

    With `square_pad` every batch becomes a square of that side, so that images may have any size up to it.

    Raises:
        UserError: for a dynamic size, images larger than `square_pad`, or a trunk that pads maps by itself.
    """

    def __init__(self, model: nn.Module, options: Options):
        self.divisibility = max(1, getattr(model.backbone, "size_divisibility", 1))
        self.square = getattr(model, "square_pad", 0)
        self.dynamic = "size" in options.dynamic
        if self.square and self.dynamic and max(options.size) > self.square:
            raise UserError(
                f"--size {options.size[1]}x{options.size[0]} --dynamic size: model.square_pad={self.square} "
                "is the largest side that images may have"
            )
        largest = max(shape.stride for shape in find_trunk(model).trunk.output_shape().values())
        if self.dynamic and not self.square and self.divisibility % largest:
            raise UserError(
                f"--dynamic size: the trunk's maps have strides up to {largest}, but images are padded to "
                f"multiples of {self.divisibility}: leave it out, or set the backbone's size_divisibility to "
                f"{largest}"
            )

    def __call__(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        down, right = missing_to(self.divisibility, height), missing_to(self.divisibility, width)
        if self.square:
            side = self.square if self.dynamic else max(self.square, height + down, width + right)
            down, right = side - height, side - width
        if not self.dynamic and not down and not right:
            return images
        return pad_end(images, down, right)


class BackboneMaps(nn.Module):
    """The feature maps of the backbone with its neck, by their names; a classifier's is one vector."""

    def __init__(self, model: nn.Module, pad: Pad):
        super().__init__()
        self.backbone, self.pad = model.backbone, pad
        self.pooled = isinstance(model, ImageClassifier)
        self.names = ["features"] if self.pooled else list(model.backbone.output_shape())

    def forward(self, images: Tensor) -> Sequence[Tensor]:
        if self.pooled:
            return [self.backbone(images)]
        maps = self.backbone(self.pad(images))
        return [maps[name] for name in self.names]


class ClassScores(nn.Module):
    """A classifier's "scores" (B, K), probabilities, or its "logits"."""

    def __init__(self, model: ImageClassifier, raw: bool):
        super().__init__()
        self.backbone, self.head, self.raw = model.backbone, model.head, raw
        self.names = ["logits" if raw else "scores"]

    def forward(self, images: Tensor) -> Sequence[Tensor]:
        logits = at_least_float32(self.head(self.backbone(images)))
        return [logits if self.raw else logits.softmax(1)]


class LabelMaps(nn.Module):
    """A segmentor's "label_map" (B, H, W) uint8 and "probabilities" (B, K, H, W), or its "logits".

    Raises:
        UserError: a way of inference that has no graph.
    """

    def __init__(self, model: PairedSemanticSegmentor, pad: Pad, raw: bool, dynamic: bool):
        super().__init__()
        self.backbone, self.head, self.inference = model.backbone, model.sem_seg_head, model.inference
        self.pad, self.raw = pad, raw
        self.names = ["logits"] if raw else ["label_map", "probabilities"]
        name = type(self.inference).__name__
        if not isinstance(self.inference, (WholeImage, SlidingWindow)):
            raise UserError(f"model.inference={name} cannot be exported: set model.inference=WholeImage")
        if dynamic and isinstance(self.inference, SlidingWindow):
            raise UserError(
                f"model.inference={name}: the number of windows follows from the size: leave out "
                "--dynamic size, or set model.inference=WholeImage"
            )
        if dynamic and any(isinstance(module, UPerNet) for module in self.head.modules()):
            raise UserError(
                "--dynamic size: UPerNet pools its coarsest map to grids, whose cells follow from the size: "
                "leave it out, and export a file for each size"
            )

    def forward(self, images: Tensor) -> Sequence[Tensor]:
        logits = self.network([images])[0] if isinstance(self.inference, WholeImage) else self.windows(images)
        if self.raw:
            return [logits]
        # Eight bits hold 256 classes, more than any set has that a label map of 8 bits can describe.
        kind = torch.uint8 if logits.shape[1] <= 256 else torch.int64
        return [logits.argmax(1).to(kind), logits.softmax(1)]

    def network(self, images: list[Tensor]) -> list[Tensor]:
        """Logits (B, K, h, w), float32, of images (B, C, h, w) of one size, which run as one batch."""
        batch = torch.cat(images)
        padded = self.pad(batch)
        logits = at_least_float32(self.head(self.backbone(padded))[0])
        logits = resize(logits, padded.shape[-2:])[..., : batch.shape[-2], : batch.shape[-1]]
        return list(logits.chunk(len(images)) if len(images) > 1 else [logits])

    def windows(self, images: Tensor) -> Tensor:
        """Logits (B, K, H, W), averaged over the windows of :class:`SlidingWindow`."""
        return self.inference.average_windows(self.network, images)


class PaddedDetector(nn.Module):
    """A detector's graph of :mod:`.detectors` on padded images.

    Raises:
        UserError: there is no graph for this model, or none of a dynamic size.
    """

    def __init__(self, model: nn.Module, pad: Padding, raw: bool):
        super().__init__()
        from .detectors import detections, raw_outputs
        from .detectors.translations import TRANSLATIONS

        self.graph = (raw_outputs if raw else detections)(model)
        if pad.dynamic and not self.graph.any_size:
            raise UserError(
                f"--dynamic size: {type(model).__name__} computes the positions of its queries for one size: "
                "leave it out, and export a file for each size"
            )
        self.pad, self.names, self.translations = pad, list(self.graph.names), TRANSLATIONS
        self.ranked, self.rounding_risk = self.graph.ranked, self.graph.rounding_risk

    def forward(self, images: Tensor) -> Sequence[Tensor]:
        return self.graph(self.pad(images), (images.shape[-2], images.shape[-1]))
