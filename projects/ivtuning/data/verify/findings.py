"""The kinds of faults that verifying paired sets can find, and the report on them."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field

import numpy as np
from tabulate import tabulate

from ..faults import ADVICE
from ..labels import class_table

# kind: (severity, what to do)
KINDS = {
    **{kind: ("error", advice) for kind, advice in ADVICE.items()},
    "missing": (
        "error",
        "copy the file there, or correct info.image_root; else remove the pair and prepare again",
    ),
    "unreadable": ("error", "the file is truncated or not an image: fetch it again"),
    "channels": ("error", "visible must be 8-bit RGB, infrared gray or 8-bit RGB: are the two swapped?"),
    "label size": ("error", "the label map belongs to another image or was resized: fetch it again"),
    "label mode": ("error", "labels are class indices in one channel: run prepare_segmentation.py"),
    "unknown value": ("error", "fix the label map, or list the value in categories or ignored"),
    "unequal sizes": (
        "error",
        "align the cameras with datasets/align_pairs.py, or crop and resize one image",
    ),
    "wrong size": ("error", "the JSON was made from other files: prepare the set again"),
    "box outside": ("error", "clip the box to the image (the prepare scripts do), or fix the label"),
    "degenerate box": ("error", "remove the box: it is under 1 px wide or high"),
    "colored infrared": ("warning", "false colors or swapped folders: use the gray infrared images"),
    "shared image": (
        "error",
        "two sets have the same image, so figures of one with a model of the other mean nothing: remove it",
    ),
    "shared group": (
        "error",
        "two sets have images of the same frames or scenes, so figures are too good: divide by groups, as "
        "datasets/prepare_pair_folders.py --group-by does",
    ),
    "short polygon": (
        "warning",
        "a mask needs three points of two numbers each: the object has its box alone, and no mask",
    ),
    "duplicate image": ("warning", "two images have equal pixels: remove one"),
    "duplicate box": ("warning", "two equal boxes of one class: remove one, or it counts as a missed object"),
    "only background": ("warning", "look at the image: are there objects without labels?"),
    "only ignored": ("warning", "the image is useless for training and evaluation: leave it out"),
    "misaligned": (
        "warning",
        "look at the pair: leave it out, or align the whole set with datasets/align_pairs.py",
    ),
}
# The phase-correlation response from which a shift is trusted: of 126 deliberately mismatched MSRS pairs none
# reached it.
CONFIDENT = 0.07
WORST = 5  # shifts that the report lists


@dataclass(frozen=True)
class Finding:
    """A fault: its kind (a key of KINDS), the file or annotation, and details."""

    kind: str
    where: str
    detail: str


@dataclass(frozen=True)
class Shift:
    """An estimated translation of infrared against visible in pixels, and its response in 0..1."""

    file_name: str
    dx: float
    dy: float
    confidence: float

    @property
    def length(self) -> float:
        return float(np.hypot(self.dx, self.dy))


@dataclass
class Report:
    """Findings and figures of one or several sets.

    `pixels` holds, for each set with label maps, its class names and the (N, K + 1) pixel counts of each
    class in each readable label map, ignored pixels last. `classified` holds, for each set of classified
    pairs, the number of its images by the name of their class.
    """

    images: int = 0
    annotations: int = 0
    pixels: dict[str, tuple[list[str], np.ndarray]] = field(default_factory=dict)
    classified: dict[str, Counter] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    shifts: list[Shift] = field(default_factory=list)

    def count(self, severity: str) -> int:
        """Number of findings of a severity, "error" or "warning"."""
        return sum(KINDS[f.kind][0] == severity for f in self.findings)

    def misalignment(self) -> dict:
        """Statistics of the confident shifts among the sampled pairs, in pixels; None if there is none."""
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
            "worst": [asdict(s) for s in sure[:WORST]],
        }

    def first_error(self) -> str:
        """The first error in one line, with what to do; there must be one."""
        first = next(f for f in self.findings if KINDS[f.kind][0] == "error")
        return f"{first.where:.200}: {first.detail:.200} ({first.kind}); {KINDS[first.kind][1]}"

    def as_dict(self) -> dict:
        """The report for ``--json``: counts by kind, all findings, misalignment, classes of images."""
        classes = {name: _shares(*counts) for name, counts in self.pixels.items()}
        for name, counts in self.classified.items():
            classes[name] = {c: {"images": number} for c, number in counts.items()}
        return {
            "images": self.images,
            "annotations": self.annotations,
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "kinds": dict(Counter(f.kind for f in self.findings)),
            "findings": [asdict(f) for f in self.findings],
            "misalignment": self.misalignment(),
            "classes": classes,
        }

    def text(self, examples: int = 3) -> str:
        """The report as text: each kind with advice and its first findings, then classes and misalignment."""
        groups = defaultdict(list)
        for finding in self.findings:
            groups[finding.kind].append(finding)
        maps = sum(len(pixels) for _, pixels in self.pixels.values())
        labels = [f"{maps} label maps"] if self.pixels else []
        labels += [f"{self.annotations} boxes"] if self.annotations or not (labels or self.classified) else []
        lines = [", ".join([f"{self.images} images" if self.pixels else f"{self.images} pairs", *labels])]
        for kind, (severity, advice) in KINDS.items():
            if group := groups.get(kind):
                lines.append(f"{severity}: {kind} ({len(group)}): {advice}")
                lines += [f"    {f.where}: {f.detail}" for f in group[:examples]]
                lines += [f"    ... and {len(group) - examples} more"] if len(group) > examples else []
        for name, counts in self.classified.items():
            lines.append(f"{name}: " + ", ".join(f"{number} {c}" for c, number in counts.items()))
        by_classes = defaultdict(dict)
        for name, (classes, pixels) in self.pixels.items():
            by_classes[tuple(classes)][name] = pixels
        lines += [class_table(classes, sets) for classes, sets in by_classes.items()]
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


def _shares(classes: list[str], pixels: np.ndarray) -> dict[str, dict]:
    """For each class and "ignored": its share of all pixels in 0..1, and how many images show it."""
    shares, shown = pixels.sum(0) / max(1, pixels.sum()), (pixels > 0).sum(0)
    return {
        name: {"share": round(float(shares[i]), 6), "images": int(shown[i])}
        for i, name in enumerate([*classes, "ignored"])
    }
