"""Maps a dataset dict of image classification to model inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...errors import UserError
from ..images import check_ir_range, read_photograph
from ..modalities import PIXEL_KEYS


class ClassificationMapper:
    """Reads an image and augments it, for :class:`ivtuning.heads.classification.ImageClassifier`.

    All random numbers come from the global generators: equal states give equal samples.

    Args:
        is_train: whether the samples are for training. The label is kept either way, for the evaluator.
        augmentations: callables from a (3, H, W) uint8 RGB tensor to another, such as torchvision's v2
            transforms; applied in order.
        ir_range: values (lo, hi) of gray images of 16 bits or in floating point that become 0 and 255, see
            :func:`..images.read_photograph`.
    """

    def __init__(
        self,
        is_train: bool,
        augmentations: Sequence[Callable[[Tensor], Tensor]] = (),
        ir_range: Sequence[float] | None = None,
    ):
        self.is_train, self.augmentations = is_train, list(augmentations)
        self.ir_range = check_ir_range(ir_range)

    def __call__(self, dataset_dict: dict) -> dict:
        """The dict with "image", (3, h, w) uint8 RGB; gray, palette and alpha images are converted.

        An image in memory, `pixels` of the dict, takes the place of the file.

        Raises:
            BadPair: see :func:`..images.read_photograph`.
            UserError: an augmentation gave something else.
        """
        dataset_dict = dict(dataset_dict)
        pixels, _ = (dataset_dict.pop(key, None) for key in PIXEL_KEYS)
        photograph = read_photograph(dataset_dict["file_name"], self.ir_range, pixels)
        image = torch.from_numpy(photograph.transpose(2, 0, 1).copy())
        for change in self.augmentations:
            image = change(image)
            if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3:
                name, shape = type(change).__name__, tuple(image.shape)
                raise UserError(f"{name} gave an image {image.dtype} {shape}: it must be uint8 (3, H, W)")
        return {**dataset_dict, "image": image}
