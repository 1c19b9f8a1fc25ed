"""Frames and time stamps of video files."""

from __future__ import annotations

import sys
from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("av", reason="videos need PyAV")

from helpers.videos import damage, noise, packets, write_clip

from ivtuning.data.image_files import BadPair
from ivtuning.errors import UserError
from ivtuning.predictor.video_file import Video, is_video


def frames_of(video: Video) -> list:
    return list(video.frames(range(len(video))))


@pytest.mark.parametrize(
    ("dtype", "channels"), [(np.uint8, 3), (np.uint8, 1), (np.uint16, 1)], ids=["RGB", "gray", "16-bit gray"]
)
def test_lossless_frames_are_bit_equal(tmp_path, dtype, channels):
    given = noise(5, dtype=dtype, channels=channels)
    video = Video(write_clip(tmp_path / "a.mkv", given), "visible video")
    frames = frames_of(video)
    assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(frames, given, strict=True))
    assert np.allclose(video.times, np.arange(5) / 10) and video.period == pytest.approx(0.1)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "mov"])
def test_frames_of_lossy_videos_come_in_order_of_time(tmp_path, suffix):
    levels = [np.full((32, 32, 3), 12 * k, np.uint8) for k in range(20)]
    clip = write_clip(tmp_path / f"a.{suffix}", levels, codec="libx264", pix_fmt="yuv420p")
    video = Video(clip, "visible video")
    means = [frame.mean() for frame in frames_of(video)]
    assert np.allclose(means, [12 * k for k in range(20)], atol=3)
    assert video.rate == Fraction(10) and np.allclose(video.times, np.arange(20) / 10)


def test_deep_colors_become_8_bit(tmp_path):
    frames = [np.full((32, 32, 3), (200, 120, 40), np.uint8)] * 2
    clip = write_clip(tmp_path / "a.mkv", frames, codec="libx264", pix_fmt="yuv420p10le")
    frame = frames_of(Video(clip, "visible video"))[0]
    assert frame.dtype == np.uint8 and np.allclose(frame.mean((0, 1)), (200, 120, 40), atol=3)


def test_time_stamps_count_from_the_first_frame_and_may_be_uneven(tmp_path):
    stamps = [400, 433, 500, 800, 1000]
    given = noise(5)
    video = Video(write_clip(tmp_path / "a.mkv", given, stamps=stamps), "visible video")
    assert np.allclose(video.times, [0, 0.033, 0.1, 0.4, 0.6])
    picked = list(video.frames([1, 1, 3]))
    assert [np.array_equal(picked[i], given[k]) for i, k in enumerate((1, 1, 3))] == [True] * 3


@pytest.mark.parametrize(("codec", "suffix", "lost"), [("mjpeg", "avi", [4]), ("ffv1", "mkv", [4, 5])])
def test_a_damaged_frame_leaves_those_that_do_not_depend_on_it(tmp_path, codec, suffix, lost):
    pix_fmt = "yuvj420p" if codec == "mjpeg" else None
    whole = write_clip(tmp_path / f"a.{suffix}", noise(9), codec=codec, pix_fmt=pix_fmt, gop=3)
    expected = frames_of(Video(whole, "visible video"))
    damage(whole, 4)
    frames = frames_of(Video(whole, "visible video"))
    error = frames[4]
    assert isinstance(error, BadPair) and f"visible video {whole} cannot be read at 0.40 s (frame 4)" in str(
        error
    )
    assert [k for k in range(9) if isinstance(frames[k], BadPair)] == lost
    assert all(np.array_equal(frames[k], expected[k]) for k in range(9) if k not in lost)


@pytest.mark.parametrize("suffix", ["mkv", "avi"])
def test_files_that_are_cut_off(tmp_path, suffix, caplog):
    codec, pix_fmt = ("mjpeg", "yuvj420p") if suffix == "avi" else ("ffv1", None)
    clip = write_clip(tmp_path / f"a.{suffix}", noise(30), codec=codec, pix_fmt=pix_fmt)
    _, position, size = packets(clip)[12]
    clip.write_bytes(clip.read_bytes()[: position + size // 2])
    with pytest.raises(UserError, match=r"is cut off after 1[23] frames at 1\.[12]0 s \(its header says 3"):
        Video(clip, "infrared video")
    video = Video(clip, "infrared video", skip=True)
    assert "cut off" in caplog.text
    assert not any(isinstance(frame, BadPair) for frame in video.frames(range(12)))


def test_time_stamps_of_another_order_are_refused(tmp_path):
    levels = [np.full((64, 64, 3), 10 * k, np.uint8) for k in range(24)]
    clip = write_clip(tmp_path / "a.avi", levels, codec="libx264", pix_fmt="yuv420p")
    with pytest.raises(UserError, match="has time stamps in another order than its frames"):
        frames_of(Video(clip, "visible video"))


def test_an_mp4_without_its_index_is_no_video(tmp_path):
    clip = write_clip(tmp_path / "a.mp4", noise(9), codec="libx264", pix_fmt="yuv420p")
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    with pytest.raises(UserError, match=f"visible video {clip} cannot be read .*cut off, or no video"):
        Video(clip, "visible video")


@pytest.mark.parametrize(("angle", "turns"), [(90, 1), (180, 2), (-90, 3)])
def test_frames_are_turned_as_the_file_says(tmp_path, angle, turns):
    clip = write_clip(tmp_path / "a.mp4", noise(2, 32, 48), codec="libx264", pix_fmt="yuv420p")
    plain = frames_of(Video(clip, "visible video"))[0]
    turn(clip, angle)
    turned = frames_of(Video(clip, "visible video"))[0]
    assert np.array_equal(turned, np.rot90(plain, turns))
    turn(clip, 30)
    with pytest.raises(UserError, match=r"to be shown turned by (29|30) degrees"):
        frames_of(Video(clip, "visible video"))


def turn(path, degrees: int) -> None:
    """Have a video in an MP4 file shown turned counterclockwise."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    cosine, sine = (round(f(np.deg2rad(degrees)) * 65536) for f in (np.cos, np.sin))
    matrix = np.array([cosine, -sine, 0, sine, cosine, 0, 0, 0, 1 << 30], ">i4")
    data[start : start + 36] = matrix.tobytes()
    path.write_bytes(data)


def test_what_is_no_video(tmp_path):
    (tmp_path / "a.mp4").write_text("text")
    with pytest.raises(UserError, match="a.mp4 cannot be read"):
        Video(tmp_path / "a.mp4", "visible video")
    with pytest.raises(UserError, match="b.mp4: there is no such file"):
        Video(tmp_path / "b.mp4", "visible video")
    (tmp_path / "c.mp4").mkdir()
    assert is_video("A.MKV") and not is_video("a.png") and not is_video(tmp_path / "c.mp4")
    playlist = "#EXTM3U\n#EXTINF:1,\nhttp://localhost:9/a.ts\n#EXT-X-ENDLIST\n"
    (tmp_path / "d.mp4").write_text(playlist)
    with pytest.raises(UserError, match="d.mp4 cannot be read"):
        Video(tmp_path / "d.mp4", "visible video")


def test_without_pyav_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"^videos need PyAV: pip install 'ivtuning\[video\]'$"):
        Video(tmp_path / "a.mp4", "visible video")
