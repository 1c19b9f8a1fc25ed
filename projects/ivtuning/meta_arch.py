"""detectron2's meta-architectures on infrared-visible pairs."""

# ruff: noqa: E402 (detectron2 is prepared before anything imports it)

from __future__ import annotations

from . import compat

compat.prepare()

import math
from collections.abc import Sequence
from numbers import Real

import torch
import torch.nn.functional as F
from detectron2.modeling import GeneralizedRCNN, RetinaNet
from detectron2.structures import ImageList, Instances, RotatedBoxes
from torch import Tensor

from .data.modalities import IMAGE_KEYS, MODALITIES
from .errors import UserError, nearest

FILLS = ("error", "zero", "mean")


class PairedInput:
    """Mixin for a meta-architecture: "image" and "image_ir" are concatenated to a six-channel input.

    The input is normalized with `pixel_mean` and `pixel_std`, six values each, and then padded. With three
    values each, the model takes the visible image alone. The caller's dicts do not change.

    Architectures that batch images in `preprocess_image`, as detectron2's detectors do, need nothing else;
    others call it, or :meth:`normalize` and :meth:`pad`. Padding follows the backbone's `size_divisibility`
    and `square_pad`, but not the `padding_constraints` of newer detectron2, so that all releases agree.

    Args (keyword, besides those of the architecture):
        square_pad: pad every batch to a square of at least this side, in pixels; 0 pads to the backbone's
            divisibility only.
        fill_missing: what replaces a missing image: "error" refuses such a sample, "zero" is black, "mean" is
            the mean pixel, exactly 0 after normalization.

    Raises:
        UserError: another `fill_missing`, a negative `square_pad`, or statistics of the pixels that are not
            three or six finite numbers each, deviations above 0.
    """

    def __init__(
        self,
        *,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        square_pad: int = 0,
        fill_missing: str = "error",
        **kwargs,
    ):
        check_pixels(pixel_mean, pixel_std)
        if not isinstance(square_pad, int) or square_pad < 0:
            raise UserError(f"model.square_pad={square_pad!r}: give a side in pixels, or 0")
        # As keywords of the next class in line, which detectron2's architectures are.
        super().__init__(**kwargs, **{"pixel_mean": pixel_mean, "pixel_std": pixel_std})
        if fill_missing not in FILLS:
            raise UserError(
                f"model.fill_missing={fill_missing!r}: give {', '.join(FILLS)}{nearest(fill_missing, FILLS)}"
            )
        self.square_pad = square_pad
        self.fill_missing = fill_missing

    def stack_pairs(self, batched_inputs: list[dict]) -> list[dict]:
        """The samples, each with the model's input as its "image"; see :func:`stack_pair`."""
        channels = self.pixel_mean.numel()
        return [
            x
            if x.get("image") is not None and len(x["image"]) == channels
            else stack_pair(x, channels, self.fill_missing, self.device)
            for x in batched_inputs
        ]

    def normalize(self, batched_inputs: list[dict]) -> list[Tensor]:
        """The samples as (3 or 6, H, W) float, on the model's device; see :func:`stack_pair` for errors."""
        images = []
        for x in self.stack_pairs(batched_inputs):
            image = (x["image"].to(self.device, non_blocking=True) - self.pixel_mean) / self.pixel_std
            if self.fill_missing == "mean":
                for i in x.get("filled", ()):  # black so far
                    image[3 * i : 3 * i + 3] = 0
            images.append(image)
        return images

    def pad(self, tensors: list[Tensor], value: float = 0) -> ImageList:
        """Tensors (..., H, W) of any sizes as one batch, padded with `value` at the right and the bottom."""
        batch = ImageList.from_tensors(tensors, self.backbone.size_divisibility, value)
        if self.square_pad:
            height, width = batch.tensor.shape[-2:]
            side = max(self.square_pad, height, width)
            batch.tensor = F.pad(batch.tensor, (0, side - width, 0, side - height), value=value)
        return batch

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """The samples as one normalized batch, padded with the mean pixel.

        Raises:
            UserError: in training, oriented boxes for a model of upright ones.
        """
        if self.training and not self._oriented():
            boxes = [x["instances"].get_fields().get("gt_boxes") for x in batched_inputs if "instances" in x]
            if any(isinstance(b, RotatedBoxes) for b in boxes):
                raise UserError(
                    "the samples have oriented boxes, but the model learns upright ones: "
                    + self._how_to_orient()
                )
        return self.pad(self.normalize(batched_inputs))

    def _oriented(self) -> bool:
        """Whether the boxes of the model are oriented, which its anchors show."""
        generator = getattr(getattr(self, "proposal_generator", self), "anchor_generator", None)
        return getattr(generator, "box_dim", 4) != 4

    def _how_to_orient(self) -> str:
        """What a user does to learn oriented boxes."""
        if isinstance(self, GeneralizedRCNN):
            calls = "orient_rcnn(model) or orient(model)"
        elif isinstance(self, RetinaNet):
            calls = "orient(model)"
        else:
            return "take a Faster R-CNN or a RetinaNet, as configs/DroneVehicle does"
        return f"call {calls} of configs/common/models/oriented.py in the config"

    def visualize_training(self, batched_inputs: list[dict], proposals: list[Instances]) -> None:
        # detectron2 draws its training pictures on three channels.
        stacked = [{**x, "image": x["image"][:3]} for x in self.stack_pairs(batched_inputs)]
        super().visualize_training(stacked, proposals)


def check_pixels(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise UserError unless these are three or six finite numbers each, and all of `std` above 0."""
    for key, values in (("pixel_mean", mean), ("pixel_std", std)):
        numbers = not isinstance(values, str) and isinstance(values, Sequence) and len(values) in (3, 6)
        if not numbers or not all(isinstance(v, Real) and math.isfinite(v) for v in values):
            raise UserError(f"model.{key}={values}: give three numbers, or six for pairs")
    if len(mean) != len(std):
        raise UserError(f"model.pixel_mean has {len(mean)} values, model.pixel_std {len(std)}: give as many")
    if min(std) <= 0:
        raise UserError(f"model.pixel_std={list(std)}: give deviations above 0")


def stack_pair(
    x: dict, channels: int, fill_missing: str = "error", device: torch.device | str | None = None
) -> dict:
    """A copy of the sample `x` whose "image" is the model's (`channels`, H, W) uint8 input, on `device`.

    Three channels are the visible image, six are visible and infrared. A missing image becomes black, unless
    `fill_missing` is "error"; "filled" lists the missing ones, 0 for visible and 1 for infrared.

    Raises:
        UserError: an image is missing and `fill_missing` is "error", both are missing, or their sizes differ.
    """
    name = x.get("file_name", "a sample")
    images = [x.get(key) for key in IMAGE_KEYS]
    present = [image for image in images if image is not None]
    if not present:
        raise UserError(f"{name}: the sample has neither 'image' nor 'image_ir': use PairedDatasetMapper")
    images = images[: channels // 3]
    filled = [i for i, image in enumerate(images) if image is None]
    if filled and fill_missing == "error":
        raise UserError(
            f"{name}: the model takes {' and '.join(MODALITIES[: len(images)])}, but the sample has no "
            f"{IMAGE_KEYS[filled[0]]!r}: use PairedDatasetMapper, or set model.fill_missing=mean "
            "if it may lack one"
        )
    images = [torch.zeros_like(present[0]) if image is None else image for image in images]
    if images[0].shape != images[-1].shape:
        raise UserError(
            f"{name}: visible is {tuple(images[0].shape)}, infrared {tuple(images[-1].shape)}: "
            "both must be (3, H, W) in one frame"
        )
    # Images are moved as bytes, straight from the loader's pinned memory, so that the copy is asynchronous;
    # a stack made on the host would not be pinned.
    images = [image.to(device, non_blocking=True) for image in images]
    return {**x, "image": torch.cat(images), "filled": filled}


class PairedRCNN(PairedInput, GeneralizedRCNN):
    """Faster and Mask R-CNN on pairs."""


class PairedRetinaNet(PairedInput, RetinaNet):
    """RetinaNet on pairs. The losses of a batch are divided by its number of positive anchors, at least 1.

    detectron2 divides by a moving average of that number, which is not in checkpoints: a resumed run would
    start it anew.
    """

    def _ema_update(self, name: str, value: float, initial_value: float, momentum: float = 0.9) -> float:
        return value
