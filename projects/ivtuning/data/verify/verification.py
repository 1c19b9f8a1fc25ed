"""Checks paired sets for everything that would spoil training or evaluation."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np

from ...errors import UserError
from ...utils.progress import track
from .. import catalog
from ..datasets import classified_pairs, detection, segmentation
from ..faults import faults, name_of
from ..image_files import BadPair, image_size, stored_size
from ..images import read_pair
from ..labels import IGNORE, MAX_CLASSES, read_labels
from ..masks import nested, polygons
from ..modalities import FILE_KEYS, MODALITIES
from ..oriented import center_and_size
from .findings import CONFIDENT, Finding, Report, Shift

# A trusted shift is reported from this fraction of the image's diagonal on.
MISALIGNED = 0.015
# The range of an image's gray levels, 0..255, from which equal pixels mean that it is the same image.
CONTRAST = 8
# Smaller images, in pixels, have too few edges for a shift to be trusted.
MEASURABLE = 64


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


def check_boxes(images: Mapping[int, dict], annotations: Mapping[int, dict]) -> Iterator[Finding]:
    """Yield what is odd about boxes and polygons whose values are good.

    Args:
        images: id -> image. Annotations of others are passed over.
        annotations: index in the JSON -> annotation.
    """
    seen: dict[tuple, int] = {}
    for i, box in annotations.items():
        if (image := images.get(box["image_id"])) is None:
            continue
        where = name_of("annotations", i, box, images)
        if oriented := len(box["bbox"]) != 4:
            x, y, w, h = center_and_size(box["bbox"])
        else:
            x, y, w, h = box["bbox"]
        # A box that is turned may stick out, but its center may not.
        right, bottom = (x, y) if oriented else (x + w, y + h)
        if w < 1 or h < 1:
            yield Finding("degenerate box", where, f"{w} x {h} px")
        # Half a pixel of tolerance for rounded coordinates.
        elif min(x, y) < -0.5 or right > image["width"] + 0.5 or bottom > image["height"] + 0.5:
            yield Finding("box outside", where, f"{box['bbox']} in {image['width']}x{image['height']}")
        mask = box.get("segmentation")
        if isinstance(mask, list) and len(polygons(mask)) < len(nested(mask)):
            yield Finding(
                "short polygon", where, f"polygons of {', '.join(str(len(p)) for p in nested(mask))} numbers"
            )
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
    present = dict(zip(MODALITIES, (name, partner), strict=True))
    present.pop(absent, None)
    files = {file: root / file for file in present.values()}
    if lost := [
        Finding("missing", f, f"no file {path}") for f, path in files.items() if not os.path.isfile(path)
    ]:
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
        named = dict(zip(FILE_KEYS, (name, partner), strict=True))
        record = {key: str(root / file) for key, file in named.items() if file}
        images = dict(zip(MODALITIES, read_pair(record, absent=absent, gray_visible=gray), strict=True))
    except UserError as error:
        # The reader chains a decoder's error; without one, the image is of the wrong kind.
        kind = "unreadable" if error.__cause__ else "channels"
        return _Checked([Finding(kind, getattr(error, "file_name", name), str(error))])
    grays = {file: cv2.cvtColor(images[role], cv2.COLOR_RGB2GRAY) for role, file in present.items()}
    # Cutouts that are black or blown out equal each other, whatever they were taken of.
    shown = {file: gray for file, gray in grays.items() if np.ptp(gray) >= CONTRAST}
    hashes = {f: hashlib.blake2b(g.tobytes() + sizes[f].encode()).hexdigest() for f, g in shown.items()}
    if absent:  # there is no partner to compare with
        return _Checked(findings, hashes)
    if np.ptp(images["infrared"], axis=2).mean() > 8:
        findings.append(Finding("colored infrared", partner, "channels differ by over 8 levels on average"))
    if len(hashes) > len(set(hashes.values())):
        findings.append(Finding("same image", partner, "equal to its partner"))
        return _Checked(findings, {name: hashes[name]})
    if not measure or min(image["width"], image["height"]) < MEASURABLE:
        return _Checked(findings, hashes)
    shift = Shift(name, *(round(value, 3) for value in estimate_shift(*grays.values())))
    diagonal = float(np.hypot(image["width"], image["height"]))
    if shift.confidence >= CONFIDENT and shift.length > MISALIGNED * diagonal:
        findings.append(Finding("misaligned", name, f"by about {shift.length:.1f} px"))
    return _Checked(findings, hashes, shift)


class _Labels:
    """Checks the label maps of one set. All its classes count, whatever protocol the set is used with."""

    def __init__(self, content: dict, json_file: str | Path):
        categories, ignored = content["categories"], segmentation.ignored_values(content, json_file)
        if len(categories) > MAX_CLASSES:
            raise UserError(f"{json_file} lists {len(categories)} categories: give at most {MAX_CLASSES}")
        self.names = [c["name"] for c in categories]
        self.ids = dict.fromkeys(ignored, IGNORE) | {c["id"]: i for i, c in enumerate(categories)}

    def check(self, root: Path, image: dict) -> tuple[Finding | None, np.ndarray | None]:
        """A fault of an image's label map, if any, and its (K + 1,) pixels by class, ignored ones last."""
        name, size = image["sem_seg_file_name"], (image["width"], image["height"])
        path = root / name
        if not os.path.isfile(path):
            return Finding("missing", name, f"no file {path}"), None
        try:
            if (own := stored_size(path)) != size:
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


def _read(json_file: str | Path) -> tuple[dict, str]:
    """The unchecked content of a JSON, and what labels its images, see :func:`..catalog.kind_of`."""
    folder = Path(json_file).parent.name
    kind = {"segmentation": "label maps", classified_pairs.FOLDER: "classes"}.get(folder, "boxes")
    room = {"label maps": segmentation, "classes": classified_pairs}.get(kind, detection)
    content = catalog.read_json(json_file, segmentation.LISTS, room.KNOWN)
    for key in segmentation.LISTS:
        if not content[key]:
            raise UserError(f"{json_file} lists no {key}: prepare the set again")
    images = [image for image in content["images"] if isinstance(image, dict)]
    if any("sem_seg_file_name" in image for image in images):
        kind = "label maps"
    elif "annotations" in content:
        kind = "boxes"
    elif any("category_id" in image for image in images):
        kind = "classes"
    if kind == "boxes":
        catalog.read_json(json_file, detection.LISTS, room.KNOWN)
    return content, kind


def verify(
    sets: dict[str, tuple[str | Path, str | Path]], sample: int = 64, gray_visible: bool = False
) -> Report:
    """Check sets; equal images and images of one group are looked for across all of them.

    Args:
        sets: name -> (json_file, image_root).
        sample: number of pairs per set, evenly spread, whose misalignment is estimated.
        gray_visible: accept visible images of one channel.

    Raises:
        UserError: a JSON that is missing or unreadable, or neither a detection nor a segmentation file.
    """
    if sample < 0:
        raise UserError(f"sample={sample}: give a number of pairs from 0")
    report = Report()
    seen: dict[str, tuple[str, str]] = {}
    groups: dict[str, list[str]] = {}
    for name, (json_file, image_root) in sets.items():
        content, kind = _read(json_file)
        labeled = kind == "label maps"
        roots = catalog.roots_of(content, json_file, image_root)
        named = [i for i in content["images"] if isinstance(i, dict)]
        paired = not labeled or any(image.get("ir_file_name") for image in named)
        found = list(faults(content, kind, paired, roots))
        report.findings += [Finding(fault.kind, fault.where, fault.detail) for fault in found]
        report.images += len(content["images"])
        # Only what has good values can be looked at more closely.
        faulty = {fault.entry for fault in found if not fault.kind.startswith("duplicate")}
        images = [image for i, image in enumerate(content["images"]) if ("images", i) not in faulty]
        for image in images:
            catalog.simplify(image)
        labels = None
        if labeled and not any(key == "categories" for key, _ in faulty):
            labels = _Labels(content, json_file)
        for group in {image["group"] for image in images if "group" in image}:
            groups.setdefault(group, []).append(name)
        if kind == "classes":
            rows = enumerate(content["categories"])
            names = {c["id"]: c["name"] for i, c in rows if ("categories", i) not in faulty}
            counts = Counter(dict.fromkeys(names.values(), 0))
            counts.update(names[i["category_id"]] for i in images if i["category_id"] in names)
            report.classified[name] = counts
        if kind == "boxes":
            report.annotations += len(content["annotations"])
            boxes = {i: a for i, a in enumerate(content["annotations"]) if ("annotations", i) not in faulty}
            report.findings += check_boxes({image["id"]: image for image in images}, boxes)
        measured = set(np.linspace(0, len(images) - 1, min(sample, len(images)), dtype=int).tolist())
        measure = [i in measured for i in range(len(images))]
        pixels = []
        with ThreadPoolExecutor() as pool:
            check = partial(_check_image, roots[0], labels, paired, gray_visible)
            results = pool.map(check, images, measure)
            for checked in track(results, name, total=len(images)):
                report.findings += checked.findings
                report.shifts += [checked.shift] if checked.shift else []
                pixels += [] if checked.pixels is None else [checked.pixels]
                for file, digest in checked.hashes.items():
                    first, original = seen.setdefault(digest, (name, file))
                    if (first, original) != (name, file):
                        what = "duplicate image" if first == name else "shared image"
                        report.findings.append(Finding(what, f"{name}: {file}", f"as {first}: {original}"))
        if labels is not None:
            report.pixels[name] = (labels.names, np.array(pixels).reshape(-1, len(labels.names) + 1))
    report.findings += _shared_groups(groups)
    return report


def _shared_groups(groups: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Yield a finding for every two sets that have images of the same groups.

    Args:
        groups: group -> the sets that have it.
    """
    shared: dict[tuple[str, str], list[str]] = {}
    for group, sets in groups.items():
        for two in combinations(sets, 2):
            shared.setdefault(two, []).append(group)
    for (first, second), names in shared.items():
        some = ", ".join(sorted(names)[:3])
        count = f"{len(names)} group{'s' * (len(names) > 1)}"
        yield Finding("shared group", second, f"{count} of it are in {first} as well, such as {some}")
