"""Draws predictions on the frames of videos, and writes them as a video."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..data.modalities import MODALITIES, PIXEL_KEYS, absent_modality
from ..errors import UserError
from ..utils.files import atomic_write
from ..utils.progress import track
from .journal import Journal
from .predictor import Prediction, Predictor
from .results import prediction_of
from .video_file import import_av
from .video_pairs import VideoPairs

# Encoders in the order of choice, with their options, and the largest denominator of their time base.
_ENCODERS = {
    "libx264": ({"crf": "20", "preset": "veryfast"}, 2**31 - 1),
    "mpeg4": ({"qmin": "3", "qmax": "5"}, 2**16 - 1),
}


def draw_video(
    path: Path,
    source: VideoPairs,
    journal: Journal,
    predict: Predictor,
    categories: Sequence[int],
    threshold: float,
) -> None:
    """Write the video of all finished frames, with their time stamps; see :func:`write_video`.

    Args:
        journal: has the finished frames.
        categories: category ids by label.
        threshold: least score of a drawn box.

    Raises:
        BadPair: a frame can no longer be read.
    """
    done = [number for number in range(len(source)) if source[number] in journal]
    records = source.read_ahead(done)

    def pictures() -> Iterator[tuple[int, np.ndarray]]:
        bar = track(records, "drawing", len(done))
        bar.unit = " frames"
        for record in bar:
            if "bad_pair" in record:
                raise record["bad_pair"]
            prediction = _noted(record, journal, path.parent, categories)
            picture = draw_frame(predict, record, prediction, source.cameras, threshold)
            yield source.stamp(record["number"]), picture

    with contextlib.closing(records):
        write_video(path, pictures(), source.rate, source.time_base)


def draw_frame(
    predict: Predictor, record: dict, prediction: Prediction, cameras: Sequence[str], threshold: float
) -> np.ndarray:
    """The images of `cameras` side by side, each with the prediction; (H, W or 2W, 3) uint8 RGB.

    Args:
        record: dataset dict with its pixels. An image that it lacks is black.
        cameras: modalities.
    """
    absent = absent_modality(record)
    drawn = {
        camera: predict.draw({**record, "missing": other}, prediction, threshold=threshold)
        for camera, other in zip(MODALITIES, MODALITIES[::-1], strict=True)
        if camera != absent
    }
    black = np.zeros_like(next(iter(drawn.values())))
    return np.concatenate([drawn.get(camera, black) for camera in cameras], axis=1)


def _noted(record: dict, journal: Journal, folder: Path, categories: Sequence[int]) -> Prediction:
    pixels = next(record[key] for key in PIXEL_KEYS if key in record)
    return prediction_of(journal.entry(record), folder, categories, pixels.shape[:2])


def write_video(
    path: Path, pictures: Iterable[tuple[int, np.ndarray]], rate: Fraction, time_base: Fraction
) -> None:
    """Write pictures as an MP4 video, of H.264 where PyAV has libx264, else of MPEG-4; never half a file.

    Args:
        pictures: (time stamp in units of `time_base`, (H, W, 3) uint8 RGB of one size), in order. An odd
            height or width gets one more row or column.
        rate: frames a second.
        time_base: seconds.

    Raises:
        UserError: the size changes.
    """
    av = import_av()
    with atomic_write(path) as temp:
        try:
            with av.open(str(temp), "w", format="mp4") as container:
                _encode(container, pictures, rate, time_base)
        except av.FFmpegError as error:
            # PyAV's own kinds of OSError do not take the name of the file.
            raise OSError(error.errno, error.strerror, str(path)) from error


def _encode(
    container: Any, pictures: Iterable[tuple[int, np.ndarray]], rate: Fraction, time_base: Fraction
) -> None:
    av = import_av()
    codec = next(name for name in _ENCODERS if name in av.codecs_available)
    options, limit = _ENCODERS[codec]
    stream = shape = None
    for stamp, picture in pictures:
        if stream is None:
            shape = picture.shape
            stream = container.add_stream(codec, rate=rate, options=options)
            stream.height, stream.width = (side + side % 2 for side in shape[:2])
            stream.pix_fmt = "yuv420p"
            exact = time_base.denominator <= limit
            stream.codec_context.time_base = time_base if exact else Fraction(1, 1000)
        if picture.shape != shape:
            sizes = " then ".join(f"{s[1]}x{s[0]}" for s in (shape, picture.shape))
            raise UserError(f"frames change their size, {sizes}: a video has one; leave out --draw")
        even = np.pad(picture, [(0, shape[0] % 2), (0, shape[1] % 2), (0, 0)], "edge")
        frame = av.VideoFrame.from_ndarray(even, "rgb24")
        frame.pts, frame.time_base = stamp, time_base
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
