"""Pairs of frames of two videos, or of one video that shows both cameras."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from ..data.image_files import BadPair
from ..data.modalities import FILE_KEYS, MODALITIES, PIXEL_KEYS
from ..errors import UserError, nearest
from .ahead import iterate_ahead
from .sources import Mapper
from .video_file import Video, is_video

logger = logging.getLogger("ivtuning")
# Where the visible half of a frame is, then the infrared one: the axis, and whether visible comes second.
SPLITS = {
    "left-right": (1, False),
    "right-left": (1, True),
    "top-bottom": (0, False),
    "bottom-top": (0, True),
}
# Batches, or frames to draw, that are decoded before they are needed.
AHEAD = 3


class VideoPairs:
    """The frames of videos as a :class:`.sources.Source`; "image_id" is the frame's number.

    The visible video's frames count, from 0, and their times, in seconds from the first frame.

    Args:
        vis, ir: video files; None: that camera is missing.
        split: where in `vis` the visible and the infrared image are, a key of SPLITS.
        sync: pair frames by their times, see :func:`nearest_frames`. Otherwise both videos must have the
            same frames.
        fills: keep visible frames without partner, with their infrared image missing; otherwise leave them
            out. With `sync`.
        stride: take every `stride`-th frame.
        skip: take what is there of a video that is cut off.

    Attributes:
        cameras: the modalities that have a video.
        rate, time_base: of the video whose frames count, see :class:`.video_file.Video`.

    Raises:
        UserError: see :class:`.video_file.Video`; a path that is no video; two videos of different frames;
            another `split`.
    """

    unit = "frames"
    fields = ("frame", "time")

    def __init__(
        self,
        vis: str | os.PathLike | None,
        ir: str | os.PathLike | None,
        *,
        split: str | None = None,
        sync: bool = False,
        fills: bool = False,
        stride: int = 1,
        skip: bool = False,
    ):
        for path in (vis, ir):
            if path is not None and not is_video(path):
                raise UserError(f"{path} is no video, but the other one is: give two videos")
        if split and split not in SPLITS:
            raise UserError(f"split={split!r}: give {', '.join(SPLITS)}{nearest(split, SPLITS)}")
        self.split = split
        self.videos = [
            None if path is None else Video(path, f"{modality} video", skip)
            for path, modality in zip((vis, ir), MODALITIES, strict=True)
        ]
        self._main = self.videos[0] if self.videos[0] is not None else self.videos[1]
        self.cameras = [
            m for m, video in zip(MODALITIES, self.videos, strict=True) if split or video is not None
        ]
        self.rate, self.time_base = self._main.rate, self._main.time_base
        count = len(self._main)
        # Numbers of the visible and of the infrared frame; -1: there is none.
        self._frames = np.stack(
            [np.full(count, -1) if video is None else np.arange(count) for video in self.videos], 1
        )
        if None not in self.videos:
            self._frames[:, 1] = _partners(self.videos[0], self.videos[1], sync)
            if not fills:
                self._frames = self._frames[self._frames[:, 1] >= 0]
            _report(self._frames, len(self.videos[0]), len(self.videos[1]), fills)
        self._frames = self._frames[::stride]

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, number: int) -> dict:
        frame = self.frame(number)
        record = {"image_id": frame, "file_name": self._main.path, "frame": frame}
        record["time"] = round(float(self._main.times[frame]), 6)
        if self.split or self.videos[1] is not None:
            record[FILE_KEYS[1]] = (self._main if self.split else self.videos[1]).path
        if not self.split and (missing := np.flatnonzero(self._frames[number] < 0)).size:
            record["missing"] = MODALITIES[missing[0]]
        return record

    def frame(self, number: int) -> int:
        """The frame's number in the video that counts."""
        return int(self._frames[number][0 if self.videos[0] else 1])

    def stamp(self, number: int) -> int:
        """The frame's time from the first one, in units of `time_base`."""
        return int(self._main.pts[self.frame(number)] - self._main.pts[0])

    def stem(self, number: int) -> str:
        return f"{self.frame(number):06d}"

    def read(self, numbers: Sequence[int]) -> Iterator[dict]:
        """Dataset dicts with their pixels, or with the error of a frame that cannot be read as "bad_pair".

        Args:
            numbers: positions, ascending.
        """
        wanted = self._frames[np.asarray(numbers, np.int64)]
        streams = [
            iter(()) if video is None else video.frames(column[column >= 0].tolist())
            for video, column in zip(self.videos, wanted.T, strict=True)
        ]
        for number, row in zip(numbers, wanted, strict=True):
            record = {**self[number], "number": number}
            for key, frame, stream in zip(PIXEL_KEYS, row, streams, strict=True):
                pixels = next(stream) if frame >= 0 else None
                if isinstance(pixels, BadPair):
                    record["bad_pair"] = pixels
                elif pixels is not None:
                    record[key] = pixels
            if self.split and "bad_pair" not in record:
                record |= zip(PIXEL_KEYS, self._halves(record[PIXEL_KEYS[0]]), strict=True)
            yield record

    def read_ahead(self, numbers: Sequence[int]) -> Generator[dict, None, None]:
        """What :meth:`read` gives, decoded in a thread."""
        return iterate_ahead(self.read(numbers), AHEAD)

    def batches(
        self, numbers: Sequence[int], mapper: Mapper, size: int, workers: int
    ) -> Generator[list[dict], None, None]:
        """See :class:`.sources.Source`. A thread decodes and maps; there are no other `workers`."""
        return iterate_ahead(_batched((mapper(record) for record in self.read(numbers)), size), AHEAD)

    def _halves(self, pixels: np.ndarray) -> list[np.ndarray]:
        axis, swapped = SPLITS[self.split]
        if pixels.shape[axis] % 2:
            size = f"{pixels.shape[1]}x{pixels.shape[0]}"
            raise UserError(f"{self._main.path} is {size}: --split {self.split} needs two halves of one size")
        halves = np.split(pixels, 2, axis)
        return halves[::-1] if swapped else halves


def nearest_frames(visible: Video, infrared: Video) -> np.ndarray:
    """(N,) int64: the infrared frame nearest in time to each visible one; -1 if there is none close by.

    Close by is half a frame period of the slower video.
    """
    times = infrared.times
    after = np.searchsorted(times, visible.times).clip(max=len(times) - 1)
    before = (after - 1).clip(min=0)
    nearest = np.where(visible.times - times[before] <= np.abs(times[after] - visible.times), before, after)
    # Some containers round time stamps to a millisecond.
    limit = max(visible.period, infrared.period) / 2 + 1e-3
    return np.where(np.abs(times[nearest] - visible.times) <= limit, nearest, -1)


def _partners(visible: Video, infrared: Video, sync: bool) -> np.ndarray:
    if sync:
        return nearest_frames(visible, infrared)
    gap = np.abs(visible.times - infrared.times).max() if len(visible) == len(infrared) else None
    if gap is None or gap > min(visible.period, infrared.period) / 2:
        why = "" if gap is None else f" (their times differ by up to {gap:.2f} s)"
        raise UserError(
            f"{visible}, and {infrared}{why}: --sync pairs each visible frame with the infrared one that is "
            "nearest in time"
        )
    return np.arange(len(visible))


def _report(frames: np.ndarray, visible: int, infrared: int, fills: bool) -> None:
    """Log which frames have no partner."""
    lonely = visible - int((frames[:, 1] >= 0).sum())
    unused = infrared - len(np.unique(frames[frames[:, 1] >= 0, 1]))
    if lonely:
        what = "go without infrared" if fills else "are left out"
        logger.warning(
            "%d of %d visible frames have no infrared frame close by: they %s", lonely, visible, what
        )
    if unused:
        logger.warning("%d of %d infrared frames are not used", unused, infrared)


def _batched(samples: Iterable[dict], size: int) -> Iterator[list[dict]]:
    iterator = iter(samples)
    return iter(lambda: list(islice(iterator, size)), [])
