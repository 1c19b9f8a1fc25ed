"""detectron2's meta-architectures, fed with pairs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.modeling import GeneralizedRCNN

from .data.images import MODALITIES
from .errors import UserError, nearest

# Keys of a sample's images, in the order of the channels.
KEYS = ("image", "image_ir")
FILLS = ("error", "zero", "mean")


class PairedInput:
    """Mixin for a meta-architecture: stacks "image" and "image_ir" to six channels at the model's door.

    The architecture then normalises and pads both at once with six-long `pixel_mean` and `pixel_std`. With
    three-long ones it sees the visible image alone. The caller's dicts are left as they are.

    Args (keyword, besides those of the architecture):
        square_pad: pad every batch to a square of at least this side, in pixels; 0 pads to the backbone's
            divisibility only.
        missing: what stands in for an image that a sample lacks: "error" refuses such a sample, "zero" is
            black, "mean" the mean pixel, that is exactly 0 after normalisation.

    Raises:
        UserError: `missing` is none of these.
    """

    def __init__(self, *, square_pad: int = 0, missing: str = "error", **kwargs):
        super().__init__(**kwargs)
        if missing not in FILLS:
            raise UserError(f"model.missing={missing!r}: give {', '.join(FILLS)}{nearest(missing, FILLS)}")
        self.square_pad = square_pad
        self.missing = missing

    def _stack(self, batched_inputs: list[dict]) -> list[dict]:
        channels = self.pixel_mean.numel()
        return [
            x if len(x.get("image", ())) == channels else stack_pair(x, channels, self.missing)
            for x in batched_inputs
        ]

    def forward(self, batched_inputs: list[dict]):
        return super().forward(self._stack(batched_inputs))

    def inference(self, batched_inputs: list[dict], *args, **kwargs):
        return super().inference(self._stack(batched_inputs), *args, **kwargs)

    def visualize_training(self, batched_inputs: list[dict], proposals):
        # detectron2's picture of the training state draws on three channels.
        return super().visualize_training([{**x, "image": x["image"][:3]} for x in batched_inputs], proposals)

    def preprocess_image(self, batched_inputs: list[dict]):
        images = super().preprocess_image(batched_inputs)
        if self.missing == "mean":
            for image, x in zip(images.tensor, batched_inputs, strict=True):
                for i in x.get("filled", ()):  # black so far
                    image[3 * i : 3 * i + 3] = 0
        if self.square_pad:
            height, width = images.tensor.shape[-2:]
            side = max(self.square_pad, height, width)
            images.tensor = F.pad(images.tensor, (0, side - width, 0, side - height))
        return images


def stack_pair(x: dict, channels: int, missing: str = "error") -> dict:
    """A copy of the sample `x` whose "image" is the model's (`channels`, H, W) uint8 input.

    Three channels are visible, six visible and infrared. An image that is not there becomes black, unless
    `missing` is "error"; "filled" lists such places, 0 for visible and 1 for infrared.

    Raises:
        UserError: the sample lacks an image and may not, it has none at all, or two of unequal size.
    """
    name = x.get("file_name", "a sample")
    images = [x.get(key) for key in KEYS]
    present = [image for image in images if image is not None]
    if not present:
        raise UserError(f"{name}: the sample has neither 'image' nor 'image_ir': use PairedDatasetMapper")
    images = images[: channels // 3]
    filled = [i for i, image in enumerate(images) if image is None]
    if filled and missing == "error":
        raise UserError(
            f"{name}: the model takes {' and '.join(MODALITIES[: len(images)])}, but the sample has no "
            f"{KEYS[filled[0]]!r}: use PairedDatasetMapper, or set model.missing=mean if it may lack one"
        )
    images = [torch.zeros_like(present[0]) if image is None else image for image in images]
    if images[0].shape != images[-1].shape:
        raise UserError(
            f"{name}: visible is {tuple(images[0].shape)}, infrared {tuple(images[-1].shape)}: "
            "both must be (3, H, W) in one frame"
        )
    return {**x, "image": torch.cat(images), "filled": filled}


class PairedRCNN(PairedInput, GeneralizedRCNN):
    """Faster and Mask R-CNN on pairs."""
