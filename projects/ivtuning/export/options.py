"""What a file is made for: its size, batch, precision, stage and format."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError, nearest

STAGES = ("backbone", "raw", "detections")
DYNAMIC = ("batch", "size")
PRECISIONS = ("fp32", "fp16")
FORMATS = {"onnx": ".onnx", "pt2": ".pt2"}


@dataclass(frozen=True)
class Options:
    """What to export.

    Attributes:
        size: height and width of the images, in pixels.
        batch: number of pairs in a batch.
        dynamic: what may differ from `batch` and `size` at run time, some of DYNAMIC.
        precision: "fp32", or "fp16" for a backbone in half precision.
        stage: where the graph ends: "backbone" gives feature maps, "raw" what the heads compute, None and
            "detections" predictions.

    Raises:
        UserError: a value out of range, or an unknown word.
    """

    size: tuple[int, int]
    batch: int = 1
    dynamic: Collection[str] = ()
    precision: str = "fp32"
    stage: str | None = None

    def __post_init__(self):
        if min(self.size) < 1 or self.batch < 1:
            raise UserError(
                f"--size {self.size[1]}x{self.size[0]} --batch {self.batch}: give at least 1 each"
            )
        for word in self.dynamic:
            known("--dynamic", word, DYNAMIC)
        known("--precision", self.precision, PRECISIONS)
        if self.stage is not None:
            known("--stage", self.stage, STAGES)


def known(flag: str, word: str, words: Collection[str]) -> None:
    """Raise UserError unless `word`, the value of `flag`, is one of `words`."""
    if word not in words:
        raise UserError(f"{flag} {word}: give {' or '.join(words)}{nearest(word, words)}")


def parse_size(text: str) -> tuple[int, int]:
    """Height and width from "640x512", which is width x height as cameras name it.

    Raises:
        UserError: something else.
    """
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()) or not (int(width) and int(height)):
        raise UserError(f"--size {text}: give width x height in pixels, as 640x512")
    return int(height), int(width)


def file_format(path: Path, name: str | None = None) -> str:
    """The format of `path`, "onnx" or "pt2", by its suffix.

    Args:
        name: the format that was asked for, if any.

    Raises:
        UserError: another suffix, or one of another format than `name`.
    """
    by_suffix = {suffix: kind for kind, suffix in FORMATS.items()}
    kind = by_suffix.get(path.suffix)
    if kind is None or name not in (None, kind):
        wanted = FORMATS[name] if name else " or ".join(by_suffix)
        raise UserError(f"{path}: the name of the file ends in {wanted}")
    return kind
