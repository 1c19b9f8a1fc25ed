"""Co-DETR's augmentation at 640 px, as published for M3FD: large-scale jitter, padded squares, copy-paste.

Objects without masks are pasted with their whole boxes. In tests the model pads in the same way.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from .lsj import data, dataloader

_flip, _jitter, _ = dataloader.train.mapper.augmentations
_jitter.update(target_height=640, target_width=640)
_square = L(T.FixedSizeCrop)(crop_size=(640, 640), pad=True, pad_value=114.0)
dataloader.train.mapper.augmentations = [_flip, _jitter, _square]
dataloader.train.copy_paste = dict(prob=1.0, max_objects=100)
dataloader.test.mapper.augmentations[0].update(short_edge_length=640, max_size=640)
