"""Checks paired sets for everything that would spoil training or evaluation."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from ...errors import UserError
from ...utils.progress import track
from .. import catalog
from ..datasets import detection, segmentation
from ..image_files import BadPair, image_size
from ..images import read_pair
from ..labels import IGNORE, MAX_CLASSES, read_labels
from ..modalities import FILE_KEYS, MODALITIES
from .findings import CONFIDENT, Finding, Report, Shift

# A trusted shift is reported from this fraction of the image's diagonal on.
MISALIGNED = 0.015


def estimate_shift(visible: np.ndarray, infrared: np.ndarray) -> tuple[float, float, float]:
    """The translation (dx, dy) of infrared against visible in pixels, and a confidence in 0..1.

    What the two images share is edges, so their log gradient magnitudes are phase-correlated. In pairs with
    few common edges the confidence stays below CONFIDENT.

    Args:
        visible, infrared: (H, W) uint8.
    """

    def edges(image: np.ndarray) -> np.ndarray:
        smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.5)
        across, down = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
        magnitude = np.log1p(cv2.magnitude(across, down))
        return magnitude - magnitude.mean()

    window = cv2.createHanningWindow(visible.shape[::-1], cv2.CV_32F)
    (dx, dy), confidence = cv2.phaseCorrelate(edges(visible), edges(infrared), window)
    return dx, dy, max(0.0, confidence)


def check_annotations(content: dict) -> Iterator[Finding]:
    """Yield the faults that a COCO JSON shows by itself: ids, categories, boxes."""
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    for key in ("images", "annotations", "categories"):
        for number, times in Counter(item["id"] for item in content[key]).items():
            if times > 1:
                yield Finding("duplicate id", key, f"id {number} occurs {times} times")
    seen: dict[tuple, int] = {}
    for box in content["annotations"]:
        where = f"annotation {box['id']}"
        if (image := images.get(box["image_id"])) is None:
            yield Finding("unknown image", where, f"image id {box['image_id']}")
            continue
        where += f" of {image['file_name']}"
        if box["category_id"] not in categories:
            yield Finding("unknown class", where, f"category id {box['category_id']}")
        x, y, w, h = box["bbox"]
        if w < 1 or h < 1:
            yield Finding("degenerate box", where, f"{w} x {h} px")
        # Half a pixel of tolerance for rounded coordinates.
        elif min(x, y) < -0.5 or x + w > image["width"] + 0.5 or y + h > image["height"] + 0.5:
            yield Finding("box outside", where, f"{box['bbox']} in {image['width']}x{image['height']}")
        place = (box["image_id"], box["category_id"], *(round(v, 1) for v in box["bbox"]))
        if (first := seen.setdefault(place, box["id"])) != box["id"]:
            yield Finding("duplicate box", where, f"same as annotation {first}")


@dataclass
class _Checked:
    """The result of one image: findings, pixel hashes by file name, shift if measured, pixels by class."""

    findings: list[Finding]
    hashes: dict[str, str] = field(default_factory=dict)
    shift: Shift | None = None
    pixels: np.ndarray | None = None


def _check_image(
    root: Path, labels: _Labels | None, paired: bool, gray: bool, image: dict, measure: bool
) -> _Checked:
    checked = _check_pair(root, image | ({} if paired else {"missing": "infrared"}), gray, measure)
    if labels is not None:
        finding, checked.pixels = labels.check(root, image)
        checked.findings += [finding] if finding else []
    return checked


def _check_pair(root: Path, image: dict, gray: bool, measure: bool) -> _Checked:
    name, partner, absent = image["file_name"], image.get("ir_file_name"), image.get("missing")
    if not partner and absent != "infrared":
        return _Checked([Finding("missing", name, "the JSON names no ir_file_name")])
    present = dict(zip(MODALITIES, (name, partner), strict=True))
    present.pop(absent, None)
    files = {file: root / file for file in present.values()}
    if lost := [Finding("missing", f, f"no file {path}") for f, path in files.items() if not path.is_file()]:
        return _Checked(lost)
    try:
        sizes = {file: "{}x{}".format(*image_size(path)) for file, path in files.items()}
        findings = [
            Finding("wrong size", file, f"{size}, JSON {image['width']}x{image['height']}")
            for file, size in sizes.items()
            if size != f"{image['width']}x{image['height']}"
        ]
        if len(set(sizes.values())) > 1:
            return _Checked([*findings, Finding("unequal sizes", name, " and ".join(sizes.values()))])
        paths = (str(root / name), str(root / (partner or "")))
        record = dict(zip(FILE_KEYS, paths, strict=True))
        images = dict(zip(MODALITIES, read_pair(record, absent=absent, gray_visible=gray), strict=True))
    except UserError as error:
        # The reader chains a decoder's error; without one, the image is of the wrong kind.
        kind = "unreadable" if error.__cause__ else "channels"
        return _Checked([Finding(kind, getattr(error, "file_name", name), str(error))])
    grays = {file: cv2.cvtColor(images[role], cv2.COLOR_RGB2GRAY) for role, file in present.items()}
    hashes = {f: hashlib.blake2b(g.tobytes() + sizes[f].encode()).hexdigest() for f, g in grays.items()}
    if absent:  # there is no partner to compare with
        return _Checked(findings, hashes)
    if np.ptp(images["infrared"], axis=2).mean() > 8:
        findings.append(Finding("colored infrared", partner, "channels differ by over 8 levels on average"))
    if len(set(hashes.values())) == 1:
        findings.append(Finding("same image", partner, "equal to its partner"))
        return _Checked(findings, {name: hashes[name]})
    if not measure:
        return _Checked(findings, hashes)
    shift = Shift(name, *(round(value, 3) for value in estimate_shift(*grays.values())))
    diagonal = float(np.hypot(image["width"], image["height"]))
    if shift.confidence >= CONFIDENT and shift.length > MISALIGNED * diagonal:
        findings.append(Finding("misaligned", name, f"by about {shift.length:.1f} px"))
    return _Checked(findings, hashes, shift)


class _Labels:
    """Checks the label maps of one set. All its classes count, whatever protocol the set is used with."""

    def __init__(self, content: dict, json_file: str | Path):
        categories = content["categories"]
        values = [c["id"] for c in categories] + (content.get("ignored") or [])
        if len(categories) > MAX_CLASSES or not all(isinstance(v, int) and 0 <= v < 2**16 for v in values):
            raise UserError(
                f"{json_file}: give at most {MAX_CLASSES} categories, whose ids, like ignored, are values of "
                "label files, 0 to 65535"
            )
        self.names = [c["name"] for c in categories]
        self.ids = dict.fromkeys(values, IGNORE) | {c["id"]: i for i, c in enumerate(categories)}

    def check(self, root: Path, image: dict) -> tuple[Finding | None, np.ndarray | None]:
        """A fault of an image's label map, if any, and its (K + 1,) pixels by class, ignored ones last."""
        name, size = image["sem_seg_file_name"], (image["width"], image["height"])
        path = root / name
        if not path.is_file():
            return Finding("missing", name, f"no file {path}"), None
        try:
            if (own := image_size(path)) != size:
                sizes = "{}x{}, image {}x{}".format(*own, *size)
                return Finding("label size", name, sizes), None
            labels = read_labels({"sem_seg_file_name": str(path), "label_ids": self.ids})
        except UserError as error:
            kind = "label mode" if isinstance(error, BadPair) else "unknown value"
            return Finding("unreadable" if error.__cause__ else kind, name, str(error)), None
        counts = np.bincount(labels.ravel(), minlength=IGNORE + 1)
        counts = np.append(counts[: len(self.names)], counts[IGNORE])
        background = self.ids.get(segmentation.BACKGROUND, IGNORE)
        if counts[-1] == labels.size:
            return Finding("only ignored", name, "no pixel belongs to a class"), counts
        if background != IGNORE and counts[background] == labels.size:
            return Finding("only background", name, f"every pixel is {self.names[background]}"), counts
        return None, counts


def _read(json_file: str | Path) -> dict:
    """The content of a detection or segmentation JSON; UserError if it is neither."""
    labeled = Path(json_file).parent.name == "segmentation"
    known = segmentation.KNOWN if labeled else detection.KNOWN
    content = catalog.read_json(json_file, {"images": ("file_name",)}, known)
    if labeled or any("sem_seg_file_name" in image for image in content["images"]):
        return segmentation.read_json(json_file) | {"annotations": []}
    return detection.read_json(json_file)


def verify(
    sets: dict[str, tuple[str | Path, str | Path]], sample: int = 64, gray_visible: bool = False
) -> Report:
    """Check sets; equal images are looked for across all of them.

    Args:
        sets: name -> (json_file, image_root).
        sample: number of pairs per set, evenly spread, whose misalignment is estimated.
        gray_visible: accept visible images of one channel.

    Raises:
        UserError: a JSON that is missing, or neither a detection nor a segmentation file.
    """
    report = Report()
    seen: dict[str, str] = {}
    for name, (json_file, image_root) in sets.items():
        content = _read(json_file)
        root = catalog.image_root_of(content, json_file, image_root)
        images = content["images"]
        labels = _Labels(content, json_file) if any("sem_seg_file_name" in i for i in images) else None
        paired = labels is None or any(image.get("ir_file_name") for image in images)
        report.images += len(images)
        report.annotations += len(content["annotations"])
        report.findings += check_annotations(content)
        measured = set(np.linspace(0, len(images) - 1, min(sample, len(images)), dtype=int).tolist())
        measure = [i in measured for i in range(len(images))]
        pixels = []
        with ThreadPoolExecutor() as pool:
            results = pool.map(partial(_check_image, root, labels, paired, gray_visible), images, measure)
            for checked in track(results, name, total=len(images)):
                report.findings += checked.findings
                report.shifts += [checked.shift] if checked.shift else []
                pixels += [] if checked.pixels is None else [checked.pixels]
                for file, digest in checked.hashes.items():
                    where = f"{name}: {file}"
                    if digest in seen:
                        report.findings.append(Finding("duplicate image", where, f"as {seen[digest]}"))
                    else:
                        seen[digest] = where
        if labels is not None:
            report.pixels[name] = (labels.names, np.array(pixels).reshape(-1, len(labels.names) + 1))
    return report
