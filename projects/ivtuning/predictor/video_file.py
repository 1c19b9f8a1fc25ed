"""Reads a video file: the time stamps of its frames, and their pixels."""

from __future__ import annotations

import contextlib
import logging
import os
from array import array
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..data.image_files import BadPair
from ..errors import UserError

logger = logging.getLogger("ivtuning")
# Suffixes of video files, in lower case.
VIDEO_SUFFIXES = {
    ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm",
    ".wmv",
}  # fmt: skip
# By how many seconds a file may be shorter than its header says. Another track may be that much longer.
_TOLERANCE = 1.0


def is_video(path: str | os.PathLike) -> bool:
    """Whether a path names a video file, as its suffix tells."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES and not os.path.isdir(path)


def import_av() -> ModuleType:
    """PyAV's module; UserError if it is not installed."""
    try:
        import av
    except ImportError as error:
        raise UserError("videos need PyAV: pip install 'ivtuning[video]'") from error
    return av


class Video:
    """A video file whose time stamps have been read, but no frame yet.

    Frames are told apart by their time stamps, in the order in which they are shown, so that a rate that
    varies, or a frame that cannot be read, shifts no other frame.

    Args:
        path: the file.
        role: what the video is, for messages.
        skip: take what is there of a file that is cut off.

    Attributes:
        pts: (N,) int64, the frames' time stamps in units of `time_base`, increasing.
        time_base: seconds, a fraction.
        rate: mean number of frames a second, a fraction.
        times: (N,) float64, seconds from the first frame.
        period: typical seconds between two frames.

    Raises:
        UserError: PyAV is not installed; the file is missing, unreadable, cut off, or has no video, frames or
            time stamps.
    """

    def __init__(self, path: str | os.PathLike, role: str, skip: bool = False):
        self.path, self.role = os.fspath(path), role
        self._skip = skip
        with self._open() as (container, stream):
            self._scan(container, stream)
        self.times = (self.pts - self.pts[0]) * float(self.time_base)
        self.period = float(np.median(np.diff(self.times))) if len(self) > 1 else float(1 / self.rate)

    def __len__(self) -> int:
        return len(self.pts)

    def __str__(self) -> str:
        seconds = self.times[-1] + self.period
        return f"{self.role} {self.path} has {len(self)} frames at {float(self.rate):.4g}/s, {seconds:.2f} s"

    def frames(self, numbers: Iterable[int]) -> Iterator[np.ndarray | BadPair]:
        """The frames with these numbers, which count from 0 and never decrease.

        Gray frames are (H, W), of uint8, uint16 with the values that are stored, or float32; all others
        become (H, W, 3) uint8 RGB. They are turned as the file says. A frame that cannot be read gives an
        error in its place, and so do those that are coded as changes of it.
        """
        decoded = self._decode()
        found, frame = -1, None
        for number in numbers:
            while found < number:
                found, frame = next(decoded, (len(self), None))
            if found > number:
                yield BadPair(
                    f"{self.role} {self.path} cannot be read at {self.times[number]:.2f} s (frame {number}): "
                    "fetch it again, or give --on-bad-pair skip",
                    self.path,
                )
            else:
                yield self._pixels(frame)

    @contextlib.contextmanager
    def _open(self) -> Iterator[tuple[Any, Any]]:
        """PyAV's container and its main video stream."""
        av = import_av()
        name = f"{self.role} {self.path}"
        if not os.path.isfile(self.path):
            raise UserError(f"{name}: there is no such file: correct its path")
        try:
            # A file may be a playlist: it must not reach over the network.
            container = av.open(self.path, options={"protocol_whitelist": "file"})
        except (av.FFmpegError, OSError) as error:
            raise UserError(
                f"{name} cannot be read ({error.strerror}): it is cut off, or no video: fetch it again"
            ) from error
        with container:
            stream = container.streams.best("video")
            if stream is None:
                raise UserError(f"{name} holds no video")
            if stream.codec_context is None:
                raise UserError(f"{name} has a codec that PyAV lacks: convert it, such as to H.264")
            yield container, stream

    def _scan(self, container: Any, stream: Any) -> None:
        """Read the time stamps of all packets, without decoding them."""
        av = import_av()
        name = f"{self.role} {self.path}"
        stamps, count, broken = array("q"), 0, False
        try:
            for packet in container.demux(stream):
                if not packet.size and packet.pts is None:  # the one that ends a stream
                    continue
                if packet.pts is None:
                    raise UserError(
                        f"{name} has frames without time stamps: rewrite it with ffmpeg -fflags +genpts -i "
                        "OLD -c copy NEW.mkv"
                    )
                count += 1
                if packet.size and not packet.is_discard:
                    stamps.append(packet.pts)
        except av.FFmpegError:
            broken = True
        if not stamps:
            raise UserError(f"{name} has no frame: fetch it again")
        self.pts = np.unique(np.frombuffer(stamps, np.int64))
        self.time_base = stream.time_base
        self.rate = Fraction(stream.average_rate or stream.guessed_rate or 1)
        end = float((self.pts[-1] - self.pts[0]) * self.time_base)
        stated = stream.duration * self.time_base if stream.duration else 0
        if not stated and len(container.streams) == 1:
            stated = (container.duration or 0) / av.time_base
        if broken or count < stream.frames or end + 1 / self.rate + _TOLERANCE < stated:
            whole = f"{stream.frames} frames" if count < stream.frames else f"{float(stated):.2f} s"
            message = f"{name} is cut off after {count} frames at {end:.2f} s (its header says {whole})"
            if not self._skip:
                raise UserError(
                    f"{message}: fetch it again, or give --on-bad-pair skip to take what is there"
                )
            logger.warning("%s", message)

    def _decode(self) -> Iterator[tuple[int, Any]]:
        """(number, frame) of the frames that can be decoded, in order."""
        av = import_av()
        with self._open() as (container, stream):
            # By default a decoder makes something up where a frame is damaged, and says nothing.
            stream.codec_context.options = {"err_detect": "explode"}
            # That of FFV1 always does, but logs that the data does not match the checksum.
            logs = stream.codec_context.name == "ffv1"
            stream.thread_type = "SLICE" if logs else "AUTO"
            last, stamp, broken = -1, self.pts[0], False
            packets = container.demux(stream)
            while True:
                errors = None
                try:
                    packet = next(packets)
                    with _logged_errors() if logs else contextlib.nullcontext() as errors:
                        decoded = packet.decode()
                except StopIteration:
                    return
                except av.FFmpegError:
                    broken, decoded = True, []
                if errors:
                    broken, decoded = True, []
                for frame in decoded:
                    # What follows a damaged frame, up to the next key frame, may be coded as a change of it.
                    broken = (broken and not frame.key_frame) or frame.is_corrupt
                    if broken or frame.pts is None:
                        continue
                    if frame.pts < stamp:
                        raise UserError(
                            f"{self.role} {self.path} has time stamps in another order than its frames, as "
                            "AVI files of H.264 may: convert it, such as by ffmpeg -i OLD NEW.mp4"
                        )
                    stamp = frame.pts
                    number = int(np.searchsorted(self.pts, frame.pts))
                    if last < number < len(self) and self.pts[number] == frame.pts:
                        last = number
                        yield number, frame

    def _pixels(self, frame: Any) -> np.ndarray:
        gray = frame.format.name.startswith("gray")
        pixels = frame.to_ndarray() if gray else frame.to_ndarray(format="rgb24")
        turns = round(frame.rotation / 90)
        if abs(frame.rotation - 90 * turns) > 1:  # PyAV cuts off the fraction of an angle
            raise UserError(
                f"{self.role} {self.path} is to be shown turned by {frame.rotation} degrees: convert it to "
                "an upright one"
            )
        return np.rot90(pixels, turns)


@contextlib.contextmanager
def _logged_errors() -> Iterator[list]:
    """The messages of errors that a decoder logs inside."""
    from av import logging as messages

    level = messages.get_level()
    messages.set_level(messages.ERROR)
    try:
        with messages.Capture(local=False) as errors:
            yield errors
    finally:
        messages.set_level(level)
