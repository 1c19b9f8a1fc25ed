"""A random choice between augmentations."""

from __future__ import annotations

from collections.abc import Sequence

import detectron2.data.transforms as T
import numpy as np

from ...errors import UserError


class OneOf(T.Augmentation):
    """Applies one of `augmentations`, chosen at random with equal probability by numpy's global generator.

    A list among them stands for its members in sequence.

    Raises:
        UserError: the list is empty.
    """

    def __init__(self, augmentations: Sequence[T.Augmentation | Sequence[T.Augmentation]]):
        super().__init__()
        if not len(augmentations):
            raise UserError("OneOf has nothing to choose from: give at least one augmentation")
        self.choices = [
            T.AugmentationList(list(a) if isinstance(a, Sequence) else [a]) for a in augmentations
        ]

    def __call__(self, aug_input: T.AugInput) -> T.Transform:
        return self.choices[np.random.randint(len(self.choices))](aug_input)

    def __repr__(self) -> str:
        return f"OneOf({self.choices})"
