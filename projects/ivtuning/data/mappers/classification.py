"""Maps a dataset dict of image classification to model inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from detectron2.data.detection_utils import read_image
from torch import Tensor

from ...errors import UserError
from ..images import UNREADABLE, BadPair


class ClassificationMapper:
    """Reads an image and augments it, for :class:`ivtuning.heads.classification.ImageClassifier`.

    All random numbers come from the global generators: equal states give equal samples.

    Args:
        is_train: whether the samples are for training. The label is kept either way, for the evaluator.
        augmentations: callables from a (3, H, W) uint8 RGB tensor to another, such as torchvision's v2
            transforms; applied in order.
    """

    def __init__(self, is_train: bool, augmentations: Sequence[Callable[[Tensor], Tensor]] = ()):
        self.is_train, self.augmentations = is_train, list(augmentations)

    def __call__(self, dataset_dict: dict) -> dict:
        """The dict with "image", (3, h, w) uint8 RGB; gray, palette and alpha images are converted.

        Raises:
            BadPair: the file is missing or unreadable.
            UserError: an augmentation gave something else.
        """
        path = dataset_dict["file_name"]
        try:
            image = torch.from_numpy(read_image(path, "RGB").transpose(2, 0, 1).copy())
        except FileNotFoundError:
            raise BadPair(f"image {path} is missing: restore it, or remove it from the list", path) from None
        except UNREADABLE as error:
            why = " ".join(str(error).split()) or type(error).__name__
            raise BadPair(f"image {path} cannot be read ({why}): fetch it again", path) from error
        for change in self.augmentations:
            image = change(image)
            if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3:
                name, shape = type(change).__name__, tuple(image.shape)
                raise UserError(f"{name} gave an image {image.dtype} {shape}: it must be uint8 (3, H, W)")
        return {**dataset_dict, "image": image}
