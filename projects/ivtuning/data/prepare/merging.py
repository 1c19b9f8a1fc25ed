"""The objects of pairs whose two cameras have labels of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

# A box of each modality with this IoU are one object. The two cameras are a little apart.
SAME = 0.3

T = TypeVar("T")


def merged(visible: Sequence[T], infrared: Sequence[T], overlaps: np.ndarray) -> list[tuple[T, str]]:
    """The objects of both labels, each with the modality that shows it: "both", "visible" or "infrared".

    Two boxes with an IoU of at least SAME are one object, the best first. It keeps the infrared box.

    Args:
        overlaps: (infrared, visible) IoU of the boxes; 0 where two cannot be one object.
    """
    owners, overlaps = {}, overlaps.copy()
    while overlaps.size and overlaps.max() >= SAME:
        i, j = np.unravel_index(overlaps.argmax(), overlaps.shape)
        owners[int(j)] = int(i)
        overlaps[i], overlaps[:, j] = 0, 0
    shared = set(owners.values())
    objects = [(box, "both" if i in shared else "infrared") for i, box in enumerate(infrared)]
    return objects + [(box, "visible") for j, box in enumerate(visible) if j not in owners]
