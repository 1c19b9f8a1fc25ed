"""Detectors of other projects as a start for ours: names, class orders and layouts brought to our configs'.

One file for each family of checkpoints holds a table of names; :mod:`.engine` applies it to a file and
compares what comes out with the model of a config.
"""

from .codino import CODINO
from .convert import class_tensors, convert, convert_file
from .detectron2 import DETECTRON2
from .dino import DETREX_DINO, DINO
from .family import Family
from .mmdet import MMDET
from .report import ConversionReport
from .torchvision import TORCHVISION

FAMILIES: dict[str, Family] = {
    family.name: family for family in (DINO, DETREX_DINO, CODINO, MMDET, DETECTRON2, TORCHVISION)
}

__all__ = ["FAMILIES", "ConversionReport", "Family", "class_tensors", "convert", "convert_file"]
