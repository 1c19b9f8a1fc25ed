"""The known semantic segmentation sets: where a release keeps its files, its classes, and its registration.

A new set is one entry of KNOWN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from detectron2.data.datasets.builtin_meta import ADE20K_SEM_SEG_CATEGORIES

from ..catalog import KnownSet
from ..synthetic.generate import DESCRIPTION, LABELS

RGB = tuple[int, int, int]
PROTOCOLS = ("all", "foreground")
BACKGROUND = 0  # its value in label files


class Part(NamedTuple):
    """A part of a release.

    Attributes:
        folder: what ``{part}`` of the set's patterns stands for, or the list of the part's stems.
        images: their published number.
    """

    folder: str
    images: int


@dataclass(frozen=True, kw_only=True)
class SegmentationSet(KnownSet):
    """A segmentation set.

    Attributes:
        parts: name -> :class:`Part`.
        maker: the script for the sets that it prepares from their releases.
        description: what the set is, for its JSON.
        visible, infrared, labels: patterns of the files, relative to the release's folder, with ``{part}``
            and one ``*``, which is the stem. Infrared is None for visible-only sets; the same as `visible` if
            it is the fourth channel of the same files.
        classes: name -> color, in the order of their values.
        first: value of the first class.
        ignored: values that are no class, besides 255.
        listed: the folder of a part is the name of a file that lists its stems, one per line.
        timed: stems end in D (day) or N (night).
        holes: infrared pixels of 0 were not measured.
        masks: labels are gray images, whose pixels above 128 are of the second class.
        protocols: which of PROTOCOLS it is registered in.
        copies: where copies of files are in the set's folder, "" or the name of a folder and a slash.
    """

    parts: Mapping[str, Part]
    maker: str = "datasets/prepare_segmentation.py"
    description: str
    visible: str
    infrared: str | None
    labels: str
    classes: Mapping[str, RGB]
    first: int = 0
    ignored: tuple[int, ...] = ()
    listed: bool = False
    timed: bool = False
    holes: bool = False
    masks: bool = False
    protocols: tuple[str, ...] = PROTOCOLS
    copies: str = ""

    @property
    def values(self) -> dict[int, str]:
        """Value in the label files -> class."""
        return dict(enumerate(self.classes, self.first))

    @property
    def stacked(self) -> bool:
        """Whether both images of a pair are the channels of one file."""
        return self.visible == self.infrared

    @property
    def categories(self) -> list[dict]:
        """The classes as the JSON lists them."""
        colors = self.classes.values()
        return [
            {"id": value, "name": name, "color": list(rgb)}
            for (value, name), rgb in zip(self.values.items(), colors, strict=True)
        ]


def voc_color(number: int) -> RGB:
    """Entry `number` of the PASCAL VOC color map, which has 256 different colors."""
    channels = [0, 0, 0]
    for bit in range(7, -1, -1):
        for c in range(3):
            channels[c] |= (number >> c & 1) << bit
        number >>= 3
    red, green, blue = channels
    return red, green, blue


_ROADS = {  # MSRS and MFNet; colors as published with MSRS (visualize.py)
    "unlabeled": (0, 0, 0),
    "car": (64, 0, 128),
    "person": (64, 64, 0),
    "bike": (0, 128, 192),
    "curve": (0, 0, 192),
    "car_stop": (128, 128, 0),
    "guardrail": (64, 64, 128),
    "color_cone": (192, 128, 128),
    "bump": (192, 64, 0),
}
# The authors publish them (SegMiF, issue 10) in OpenCV's order, blue first.
_FMB = {
    "unlabeled": (0, 0, 0),
    "Road": (228, 228, 179),
    "Sidewalk": (133, 57, 181),
    "Building": (177, 162, 67),
    "Lamp": (50, 178, 200),
    "Sign": (199, 45, 132),
    "Vegetation": (84, 172, 66),
    "Sky": (79, 73, 179),
    "Person": (166, 99, 76),
    "Car": (253, 121, 66),
    "Truck": (91, 165, 137),
    "Bus": (152, 97, 155),
    "Motorcycle": (140, 153, 105),
    "Bicycle": (158, 215, 222),
    "Pole": (90, 113, 135),
}
_PST900 = {
    "background": (0, 0, 0),
    "fire extinguisher": (255, 0, 0),
    "backpack": (0, 255, 0),
    "hand drill": (0, 0, 255),
    "survivor": (255, 255, 255),
}
# detectron2 lists all synonyms of a class; the first ones are distinct.
_ADE20K = {
    names.split(",")[0].strip(): voc_color(value) for value, names in enumerate(ADE20K_SEM_SEG_CATEGORIES, 1)
}

KNOWN = {
    "msrs": SegmentationSet(
        folder="msrs",
        parts={"train": Part("train", 1083), "test": Part("test", 361)},
        description="MSRS pairs with label maps",
        visible="{part}/vi/*.png",
        infrared="{part}/ir/*.png",
        labels="{part}/Segmentation_labels/*.png",
        classes=_ROADS,
        timed=True,
    ),
    "mfnet": SegmentationSet(
        folder="mfnet",
        parts={"train": Part("train.txt", 784), "val": Part("val.txt", 392), "test": Part("test.txt", 393)},
        description="MFNet pairs with label maps",
        visible="images/*.png",
        infrared="images/*.png",
        labels="labels/*.png",
        classes=_ROADS,
        listed=True,
        timed=True,
    ),
    "fmb": SegmentationSet(
        folder="fmb",
        parts={"train": Part("train", 1220), "test": Part("test", 280)},
        description="FMB pairs with label maps (SegMiF)",
        visible="{part}/Visible/*.png",
        infrared="{part}/Infrared/*.png",
        labels="{part}/Label/*.png",
        classes=_FMB,
    ),
    "pst900": SegmentationSet(
        folder="pst900",
        parts={"train": Part("train", 597), "test": Part("test", 297)},
        description="PST900 pairs with label maps",
        visible="{part}/rgb/*.png",
        infrared="{part}/thermal/*.png",
        labels="{part}/labels/*.png",
        classes=_PST900,
        holes=True,
    ),
    "ade20k": SegmentationSet(
        folder="ade20k",
        parts={"train": Part("training", 20210), "val": Part("validation", 2000)},
        description="ADE20K scene parsing (ADEChallengeData2016)",
        visible="images/{part}/*.jpg",
        infrared=None,
        labels="annotations/{part}/*.png",
        classes=_ADE20K,
        first=1,
        ignored=(0,),
        protocols=("all",),
    ),
    "synthetic": SegmentationSet(
        folder="synthetic",
        parts={"train": Part("train", 256), "val": Part("val", 64)},
        maker="a first use of it",
        description=DESCRIPTION,
        visible="{part}/vis/*.png",
        infrared="{part}/ir/*.png",
        labels="{part}/labels/*.png",
        classes=LABELS,
        timed=True,
    ),
}

# Salient objects: the pixels that a person looks at first.
_SALIENT = {"background": (0, 0, 0), "salient object": (255, 255, 255)}
_SALIENT_SETS = {
    "vt5000": {"train": Part("Train", 2500), "test": Part("Test", 2500)},
    "vt1000": {"test": Part("", 1000)},
    "vt821": {"test": Part("", 821)},
}
KNOWN |= {
    name: SegmentationSet(
        folder=name,
        parts=parts,
        maker="datasets/prepare_vt.py",
        description=f"{name.upper()} pairs with salient objects",
        # Suffixes differ between copies, see prepare/salient.py.
        visible="{part}/RGB/*",
        infrared="{part}/T/*",
        labels="{part}/GT/*",
        classes=_SALIENT,
        masks=True,
        protocols=("all",),
    )
    for name, parts in _SALIENT_SETS.items()
}


def releases() -> dict[str, SegmentationSet]:
    """The known sets that datasets/prepare_segmentation.py makes from a release."""
    return {name: known for name, known in KNOWN.items() if known.maker == SegmentationSet.maker}
