"""detectron2's meta-architectures, fed with pairs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.modeling import GeneralizedRCNN

from .errors import UserError


class PairedInput:
    """Mixin for a meta-architecture: stacks "image" and "image_ir" to six channels at the model's door.

    The architecture then normalises and pads both at once with six-long `pixel_mean` and `pixel_std`. With
    three-long ones it sees the visible image alone. The caller's dicts are left as they are.

    Args (keyword, besides those of the architecture):
        square_pad: pad every batch to a square of at least this side, in pixels; 0 pads to the backbone's
            divisibility only.
    """

    def __init__(self, *, square_pad: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.square_pad = square_pad

    def _stack(self, batched_inputs: list[dict]) -> list[dict]:
        channels = self.pixel_mean.numel()
        return [
            x if len(x["image"]) == channels else {**x, "image": stack_pair(x, channels)}
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
        if self.square_pad:
            height, width = images.tensor.shape[-2:]
            side = max(self.square_pad, height, width)
            images.tensor = F.pad(images.tensor, (0, side - width, 0, side - height))
        return images


def stack_pair(x: dict, channels: int) -> torch.Tensor:
    """The (`channels`, H, W) uint8 input of one sample: 3 = visible, 6 = visible and infrared.

    Raises:
        UserError: the sample has no infrared image, or one of another size.
    """
    visible, infrared = x["image"], x.get("image_ir")
    if channels == 3:
        return visible
    name = x.get("file_name", "a sample")
    if infrared is None:
        raise UserError(
            f"{name}: the model takes pairs, but the sample has no 'image_ir': use PairedDatasetMapper"
        )
    if infrared.shape != visible.shape:
        raise UserError(
            f"{name}: visible is {tuple(visible.shape)}, infrared {tuple(infrared.shape)}: "
            "both must be (3, H, W) in one frame"
        )
    return torch.cat([visible, infrared])


class PairedRCNN(PairedInput, GeneralizedRCNN):
    """Faster and Mask R-CNN on pairs."""
