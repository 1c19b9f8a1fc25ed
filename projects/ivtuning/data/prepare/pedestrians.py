"""The releases of KAIST and CVC-14: their pairs, and their text files of pedestrians."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from detectron2.structures import Boxes, pairwise_iou

from ...errors import UserError
from ...utils.text import read_lines, whole_number
from ..annotations import Box
from ..image_files import image_files, is_hidden
from .merging import merged
from .pairing import Pair

PERSON = "person"
# What KAIST-Paired calls a pedestrian that one camera alone shows.
_UNPAIRED = "unpaired"
# Labels of KAIST that are neither trained on nor counted: crowds, riders and doubtful persons.
_KAIST_IGNORED = ("people", "cyclist", "person?", "person?a")
# Folders of KAIST's labels in train and test, by --labels.
KAIST_LABELS = {
    "sanitized": ("sanitized_annotations", "annotations_KAIST_test_set"),
    "paired_visible": ("annotations_paired", "annotations_KAIST_test_set"),
    "paired_infrared": ("annotations_paired", "annotations_KAIST_test_set"),
    "paired_both": ("annotations_paired", "annotations_KAIST_test_set"),
    "original": ("annotations", "annotations"),
}
_KAIST_SETS = {"train": range(6), "test": range(6, 12)}
_KAIST_DAY = {0, 1, 2, 6, 7, 8}
# Every 20th frame of a video counts, beginning with I00019.
STEP = 20
_FRAME = re.compile(r"set([0-9]{2})[_/]V([0-9]{3})[_/]I([0-9]{5})")


def kaist_pairs(source: Path, labels: str, part: str) -> list[Pair]:
    """The labeled pairs of a part of KAIST, by the names of their label files.

    Stems are such as ``set00/V000/I00019``.

    Every frame with sanitized or paired labels trains. Of the original labels every 20th frame trains, and in
    any case every 20th frame is tested.

    Args:
        source: folder of the release, with ``images/set00/V000/{visible,lwir}/I00000.jpg``.
        labels: a key of :data:`KAIST_LABELS`.
        part: "train" or "test".

    Raises:
        UserError: the folder of labels is missing or has no frame of the part; with "paired_both", a frame
            has labels of one camera alone.
    """
    folder = source / KAIST_LABELS[labels][part == "test"]
    if not folder.is_dir():
        raise UserError(f"{folder} is missing: it has the labels of the {part} part; fetch it, see --labels")
    cameras = {"paired_visible": "visible", "paired_infrared": "lwir", "paired_both": "visible"}
    camera = cameras.get(labels)
    pairs = {}
    for path in folder.rglob("*.txt"):
        where = path.relative_to(folder).as_posix()
        match = _FRAME.search(where.replace("/visible/", "/").replace("/lwir/", "/"))
        if is_hidden(path) or not match or int(match[1]) not in _KAIST_SETS[part]:
            continue
        if labels == "paired_both" and part == "train" and not _partner(path).is_file():
            raise UserError(f"{path} has no partner {_partner(path)}: fetch the paired labels again")
        if camera and part == "train" and f"/{camera}/" not in where:
            continue
        sampled = int(match[3]) % STEP == STEP - 1
        if sampled or (part == "train" and labels != "original"):
            video, frame = f"set{match[1]}/V{match[2]}", f"I{match[3]}"
            visible, infrared = (
                source / f"images/{video}/{kind}/{frame}.jpg" for kind in ("visible", "lwir")
            )
            pairs[f"{video}/{frame}"] = Pair(f"{video}/{frame}", visible, infrared, path)
    if not pairs:
        raise UserError(f"{folder} has no label of the {part} part, such as set00_V000_I00019.txt")
    return [pairs[stem] for stem in sorted(pairs)]


def kaist_time(stem: str) -> str:
    """The time of day, which KAIST's sets tell, from a stem such as ``set00/V000/I00019``."""
    return "day" if int(stem[3:5]) in _KAIST_DAY else "night"


def _partner(path: Path) -> Path:
    """The paired labels of the other camera."""
    other = {"visible": "lwir", "lwir": "visible"}.get(path.parent.name, path.parent.name)
    return path.parent.with_name(other) / path.name


def read_kaist_pair(path: Path, size: tuple[int, int] | None = None) -> list[Box]:
    """Boxes of the paired labels of both cameras, each with its modality.

    The two files name their common objects in the same order, and such an object has its infrared box. Where
    the labels in that order differ, boxes belong together by their overlap, see :func:`.merging.merged`.
    Unpaired objects are those of one camera.

    Args:
        path: the visible camera's file. A file of the test, which has no camera, is read as it is.

    Raises:
        UserError: see :func:`read_kaist`.
    """
    if _partner(path) == path:
        return read_kaist(path)
    visible, infrared = _labeled(path), _labeled(_partner(path))
    common = [[row for row in side if row[0] != _UNPAIRED] for side in (visible, infrared)]
    boxes = [[box for _, box in side] for side in common]
    if [label for label, _ in common[0]] == [label for label, _ in common[1]]:
        objects = [(box, "both") for box in boxes[1]]
    else:
        overlaps = pairwise_iou(
            *(Boxes(torch.tensor([b[1:5] for b in side]).reshape(-1, 4)) for side in boxes[::-1])
        )
        same = torch.tensor([[a.crowd == b.crowd for b in boxes[0]] for a in boxes[1]])
        objects = merged(boxes[0], boxes[1], (overlaps * same.reshape(overlaps.shape)).numpy())
    for side, modality in ((infrared, "infrared"), (visible, "visible")):
        objects += [(box, modality) for label, box in side if label == _UNPAIRED]
    return [box._replace(modality=modality) for box, modality in objects]


def read_kaist(path: Path, size: tuple[int, int] | None = None) -> list[Box]:
    """Boxes of one of KAIST's text files, in the toolbox's format.

    Its lines are ``label x y width height occlusion x y width height ignored angle``, in pixels; what
    follows the occlusion, with the box of the visible part, may be missing. Labels other than person and
    unpaired, and objects that the file marks as ignored, become crowd.

    Raises:
        UserError: an unknown label, or a line of another form.
    """
    return [box for _, box in _labeled(path)]


def _labeled(path: Path) -> list[tuple[str, Box]]:
    """The labels and boxes of a file, see :func:`read_kaist`."""
    rows = []
    for where, line in read_lines(path):
        if line.startswith("%"):
            continue
        label, *rest = line.split()
        if label not in (PERSON, _UNPAIRED, *_KAIST_IGNORED):
            known = ", ".join((PERSON, _UNPAIRED, *_KAIST_IGNORED))
            raise UserError(f"{where}: unknown label {label!r:.40}: KAIST has {known}")
        values = [whole_number(text) for text in rest]
        occlusion = values[4] if len(values) > 4 else 0
        if len(values) < 4 or None in values or min(values[2:4]) < 0 or occlusion not in (0, 1, 2):
            raise UserError(
                f"{where}: {line!r:.60} is not `label x y width height occlusion ...` in whole pixels, with "
                "an occlusion of 0, 1 or 2: fetch the file again"
            )
        x, y, width, height = values[:4]
        ignored = label in _KAIST_IGNORED or (len(values) > 9 and values[9] == 1)
        rows.append((label, Box(0, x, y, x + width, y + height, ignored, occlusion)))
    return rows


def cvc14_pairs(source: Path, labels: str, part: str) -> tuple[list[Pair], int]:
    """The pairs of a part of CVC-14, and the number of frames that one camera alone has.

    The stem is ``Day/Visible/Train/FramesPos/<name>``. The label of a frame without pedestrians
    (``FramesNeg``) is the frame itself.

    Args:
        source: folder of the release, with ``{Day,Night}/{Visible,FIR}/{Train,NewTest}/FramesPos``.
        labels: the camera whose labels are taken, "visible" or "infrared".
        part: "train" or "test".

    Raises:
        UserError: a folder is missing, or has no images.
    """
    pairs, alone = [], 0
    folder = {"train": "Train", "test": "NewTest"}[part]
    for time in ("Day", "Night"):
        cameras = [source / time / camera / folder for camera in ("Visible", "FIR")]
        annotations = cameras[labels == "infrared"] / "Annotations"
        for kind in ("FramesPos", "FramesNeg"):
            folders = [camera / kind for camera in cameras]
            if kind == "FramesNeg" and not all(f.is_dir() for f in folders):
                continue
            for needed in folders if kind == "FramesNeg" else (*folders, annotations):
                if not needed.is_dir():
                    raise UserError(f"{needed} is missing: is --source the folder of the release?")
            visible, infrared = ({path.stem: path for path in image_files(f)} for f in folders)
            alone += len(visible.keys() ^ infrared.keys())
            for name in sorted(visible.keys() & infrared.keys()):
                label = annotations / f"{name}.txt" if kind == "FramesPos" else visible[name]
                stem = visible[name].relative_to(source).with_suffix("").as_posix()
                pairs.append(Pair(stem, visible[name], infrared[name], label if label.is_file() else None))
    if not pairs:
        raise UserError(f"{source} has no frame of the {part} part: is --source the folder of the release?")
    return pairs, alone


def cvc14_time(stem: str) -> str:
    """The time of day from the first folder of a stem."""
    return stem.split("/")[0].lower()


def read_cvc14(path: Path, size: tuple[int, int] | None = None) -> list[Box]:
    """Boxes of one of CVC-14's text files, whose lines begin with ``xc yc width height`` in pixels.

    Raises:
        UserError: a line of another form.
    """
    if path.suffix != ".txt":  # a frame without pedestrians
        return []
    boxes = []
    for where, line in read_lines(path):
        try:
            xc, yc, width, height = (float(text) for text in line.split()[:4])
        except ValueError:
            width = height = -1.0
        if not (0 <= width < 1e6 and 0 <= height < 1e6):
            raise UserError(
                f"{where}: {line!r:.60} does not begin with `xc yc width height` in pixels: fetch it again"
            )
        boxes.append(Box(0, xc - width / 2, yc - height / 2, xc + width / 2, yc + height / 2))
    return boxes
