"""Conversion of other projects' detectors into starting points for our configs.

Each family of checkpoints has a file with its table of names; :mod:`.convert` applies the table to a
checkpoint and compares the result with the model of a config.
"""

from .codino import CODINO
from .convert import class_tensors, convert, convert_file, read_converted
from .detectron2 import DETECTRON2
from .dino import DETREX_DINO, DINO
from .family import Family
from .mmdet import MMDET
from .report import ConversionReport
from .torchvision import TORCHVISION

FAMILIES: dict[str, Family] = {
    family.name: family for family in (DINO, DETREX_DINO, CODINO, MMDET, DETECTRON2, TORCHVISION)
}

__all__ = [
    "FAMILIES",
    "ConversionReport",
    "Family",
    "class_tensors",
    "convert",
    "convert_file",
    "read_converted",
]
