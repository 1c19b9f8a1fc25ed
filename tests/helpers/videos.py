"""Writes tiny videos."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

# The lossless codec's formats, by the arrays that it keeps bit for bit.
_LOSSLESS = {"uint8 3": ("rgb24", "bgr0"), "uint8 2": ("gray", "gray"), "uint16 2": ("gray16le", "gray16le")}


def write_clip(
    path: Path,
    frames: Sequence[np.ndarray],
    rate: int = 10,
    stamps: Sequence[int] | None = None,
    codec: str = "ffv1",
    pix_fmt: str | None = None,
    gop: int | None = None,
) -> Path:
    """Write (H, W, 3) uint8, (H, W) uint8 or (H, W) uint16 frames as a video, by default a lossless one.

    Args:
        stamps: times of the frames in milliseconds; None: all 1 / `rate` seconds apart.
        gop: every such frame is a key frame.
    """
    given, lossless = _LOSSLESS[f"{frames[0].dtype} {frames[0].ndim}"]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt or lossless
        if gop:
            stream.gop_size = gop
        unit = Fraction(1, rate) if stamps is None else Fraction(1, 1000)
        stream.codec_context.time_base = unit
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), given)
            frame.pts, frame.time_base = number if stamps is None else stamps[number], unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def noise(
    count: int, height: int = 24, width: int = 32, dtype=np.uint8, channels: int = 3
) -> list[np.ndarray]:
    """Random frames, the same ones in every call."""
    shape = (height, width, channels) if channels > 1 else (height, width)
    random = np.random.default_rng(0)
    return [random.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True) for _ in range(count)]


def packets(path: Path) -> list[tuple[int, int, int]]:
    """(time stamp, position in the file, size in bytes) of the packets of a video."""
    with av.open(str(path)) as container:
        return [(p.pts, p.pos, p.size) for p in container.demux(video=0) if p.size]


def damage(path: Path, frame: int) -> None:
    """Overwrite the data of one frame of a video with zeros."""
    _, position, size = packets(path)[frame]
    data = bytearray(path.read_bytes())
    data[position + 16 : position + size] = bytes(size - 16)
    path.write_bytes(data)
