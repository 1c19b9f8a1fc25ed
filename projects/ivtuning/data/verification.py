"""Look through a paired set for everything that would spoil training or evaluation, and say what to do."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import repeat
from pathlib import Path

import cv2
import numpy as np
from tabulate import tabulate

from ivtuning.data.datasets import image_root_of, read_json
from ivtuning.data.images import read_pair
from ivtuning.data.preparation import image_size
from ivtuning.errors import UserError
from ivtuning.progress import track

# kind: (severity, what to do)
KINDS = {
    "missing": (
        "error",
        "copy the file there, or mend info.image_root; else remove the pair and prepare again",
    ),
    "unreadable": ("error", "the file is truncated or no image: fetch it again"),
    "channels": ("error", "visible must be 8-bit RGB, infrared gray or 8-bit RGB: are the two swapped?"),
    "unequal sizes": ("error", "register the pair again, or crop and resize one image to the other"),
    "wrong size": ("error", "the JSON was made from other files: prepare the set again"),
    "same image": ("error", "the infrared file holds the visible image: fetch it again"),
    "duplicate id": ("error", "ids must be unique: prepare the set again"),
    "unknown image": ("error", "the annotation belongs to no image: prepare the set again"),
    "unknown class": ("error", "mend the label or add the category, then prepare the set again"),
    "box outside": ("error", "clip the box to the image (the prepare scripts do), or mend the label"),
    "degenerate box": ("error", "remove the box: it is under 1 px wide or high"),
    "coloured infrared": ("warning", "false colours or swapped folders: use the gray infrared images"),
    "duplicate image": ("warning", "equal pixels twice: remove one, above all across train and validation"),
    "duplicate box": ("warning", "equal box and class twice: remove one, it counts as a missed object"),
    "misaligned": ("warning", "look at the pair; register it anew or leave it out"),
}
# Phase-correlation response from which a shift is believed: of 126 MSRS pairs put together wrongly on purpose
# none reached 0.07.
CONFIDENT = 0.07
# Part of the image diagonal from which a believed shift is reported.
MISALIGNED = 0.015


@dataclass(frozen=True)
class Finding:
    """One fault: its kind (a key of KINDS), the file or annotation, and the facts."""

    kind: str
    where: str
    detail: str


@dataclass(frozen=True)
class Shift:
    """Estimated translation of infrared against visible in pixels, and the response (0..1) behind it."""

    file_name: str
    dx: float
    dy: float
    confidence: float

    @property
    def length(self) -> float:
        return float(np.hypot(self.dx, self.dy))


@dataclass
class Report:
    """Findings and figures of one or several sets."""

    images: int = 0
    annotations: int = 0
    findings: list[Finding] = field(default_factory=list)
    shifts: list[Shift] = field(default_factory=list)

    def count(self, severity: str) -> int:
        return sum(KINDS[f.kind][0] == severity for f in self.findings)

    def misalignment(self, worst: int = 5) -> dict:
        """Figures over the sampled pairs whose estimate is confident; lengths in pixels, None without any."""
        sure = sorted((s for s in self.shifts if s.confidence >= CONFIDENT), key=lambda s: -s.length)

        def median(values: list[float]) -> float | None:
            return round(float(np.median(values)), 2) if values else None

        return {
            "sampled": len(self.shifts),
            "confident": len(sure),
            "median_px": median([s.length for s in sure]),
            "max_px": round(sure[0].length, 2) if sure else None,
            "median_dx": median([s.dx for s in sure]),
            "median_dy": median([s.dy for s in sure]),
            "worst": [asdict(s) for s in sure[:worst]],
        }

    def as_dict(self) -> dict:
        """For ``--json``: counts by kind, all findings, misalignment."""
        return {
            "images": self.images,
            "annotations": self.annotations,
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "kinds": dict(Counter(f.kind for f in self.findings)),
            "findings": [asdict(f) for f in self.findings],
            "misalignment": self.misalignment(),
        }

    def text(self, examples: int = 3) -> str:
        """What a person reads: each kind with its first findings and what to do, then misalignment."""
        groups = defaultdict(list)
        for finding in self.findings:
            groups[finding.kind].append(finding)
        lines = [f"{self.images} pairs, {self.annotations} boxes"]
        for kind, (severity, advice) in KINDS.items():
            if found := groups.get(kind):
                lines.append(f"{severity}: {kind} ({len(found)}): {advice}")
                lines += [f"    {f.where}: {f.detail}" for f in found[:examples]]
                lines += [f"    ... and {len(found) - examples} more"] if len(found) > examples else []
        m = self.misalignment()
        lines.append(
            f"misalignment: {m['confident']} of {m['sampled']} sampled pairs estimated with confidence"
        )
        if m["confident"]:
            lines[-1] += f"; shift median {m['median_px']} px, max {m['max_px']} px; worst:"
            rows = [[w["file_name"], w["dx"], w["dy"], w["confidence"]] for w in m["worst"]]
            lines.append(tabulate(rows, headers=["visible", "dx px", "dy px", "confidence"], floatfmt=".2f"))
        lines.append(f"{self.count('error')} errors, {self.count('warning')} warnings")
        return "\n".join(lines)


def estimate_shift(visible: np.ndarray, infrared: np.ndarray) -> tuple[float, float, float]:
    """Translation (dx, dy) in pixels that infrared has against visible, and a confidence in 0..1.

    Args:
        visible, infrared: (H, W) uint8. Edges are what the two share, so the log gradient magnitudes are
            phase-correlated; in pairs with few common edges the confidence stays below CONFIDENT.
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
    """Faults of the JSON alone: ids, categories, boxes."""
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
        # Half a pixel of grace for rounded coordinates.
        elif min(x, y) < -0.5 or x + w > image["width"] + 0.5 or y + h > image["height"] + 0.5:
            yield Finding("box outside", where, f"{box['bbox']} in {image['width']}x{image['height']}")
        key = (box["image_id"], box["category_id"], *(round(v, 1) for v in box["bbox"]))
        if (first := seen.setdefault(key, box["id"])) != box["id"]:
            yield Finding("duplicate box", where, f"same as annotation {first}")


def _check_pair(image: dict, root: Path, measure: bool) -> tuple[list[Finding], dict[str, str], Shift | None]:
    """Findings of one pair, its pixel hashes by file name and, if asked and possible, its shift."""
    name, partner, absent = image["file_name"], image.get("ir_file_name"), image.get("missing")
    if not partner and absent != "infrared":
        return [Finding("missing", name, "the JSON names no ir_file_name")], {}, None
    present = {"visible": name, "infrared": partner}
    present.pop(absent, None)
    files = {file: root / file for file in present.values()}
    if lost := [Finding("missing", f, f"no file {path}") for f, path in files.items() if not path.is_file()]:
        return lost, {}, None
    try:
        sizes = {file: "{}x{}".format(*image_size(path)) for file, path in files.items()}
        findings = [
            Finding("wrong size", file, f"{size}, JSON {image['width']}x{image['height']}")
            for file, size in sizes.items()
            if size != f"{image['width']}x{image['height']}"
        ]
        if len(set(sizes.values())) > 1:
            return [*findings, Finding("unequal sizes", name, " and ".join(sizes.values()))], {}, None
        paths = {"file_name": str(root / name), "ir_file_name": str(root / (partner or ""))}
        visible, infrared = read_pair(paths, absent=absent)
    except UserError as error:
        # The reader chains what a decoder said; without that, it is the kind of image that is wrong.
        kind = "unreadable" if error.__cause__ else "channels"
        return [Finding(kind, getattr(error, "file_name", name), str(error))], {}, None
    if absent:  # nothing to compare it with
        return findings, {}, None
    if np.ptp(infrared, axis=2).mean() > 8:
        findings.append(Finding("coloured infrared", partner, "channels differ by over 8 levels on average"))
    grays = {file: cv2.cvtColor(a, cv2.COLOR_RGB2GRAY) for file, a in ((name, visible), (partner, infrared))}
    hashes = {f: hashlib.blake2b(g.tobytes() + sizes[f].encode()).hexdigest() for f, g in grays.items()}
    if len(set(hashes.values())) == 1:
        return [*findings, Finding("same image", partner, "equal to its partner")], {name: hashes[name]}, None
    if not measure:
        return findings, hashes, None
    shift = Shift(name, *(round(value, 3) for value in estimate_shift(*grays.values())))
    diagonal = float(np.hypot(image["width"], image["height"]))
    if shift.confidence >= CONFIDENT and shift.length > MISALIGNED * diagonal:
        findings.append(Finding("misaligned", name, f"by about {shift.length:.1f} px"))
    return findings, hashes, shift


def verify(sets: dict[str, tuple[str | Path, str | Path]], sample: int = 64) -> Report:
    """Check sets ``{name: (json_file, image_root)}``; equal images are looked for across all of them.

    Args:
        sample: number of pairs per set, evenly spread, whose misalignment is estimated.

    Raises:
        UserError: a JSON that is missing or no COCO detection file.
    """
    report = Report()
    seen: dict[str, str] = {}
    for name, (json_file, image_root) in sets.items():
        content = read_json(json_file)
        root = image_root_of(content, json_file, image_root)
        images = content["images"]
        report.images += len(images)
        report.annotations += len(content["annotations"])
        report.findings += check_annotations(content)
        measured = set(np.linspace(0, len(images) - 1, min(sample, len(images)), dtype=int).tolist())
        measure = [i in measured for i in range(len(images))]
        with ThreadPoolExecutor() as pool:
            results = pool.map(_check_pair, images, repeat(root), measure)
            for findings, hashes, shift in track(results, name, total=len(images)):
                report.findings += findings
                report.shifts += [shift] if shift else []
                for file, digest in hashes.items():
                    where = f"{name}: {file}"
                    if digest in seen:
                        report.findings.append(Finding("duplicate image", where, f"as {seen[digest]}"))
                    else:
                        seen[digest] = where
    return report
