"""Pairs of frames of one or two videos, the thread that decodes them, and the video that is drawn."""

from __future__ import annotations

import errno
import threading
from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("av", reason="videos need PyAV")

import av
from helpers.videos import damage, noise, write_clip

from ivtuning.errors import UserError, user_message
from ivtuning.predictor.ahead import iterate_ahead
from ivtuning.predictor.video_drawing import write_video
from ivtuning.predictor.video_pairs import SPLITS, VideoPairs


def partners(pairs: VideoPairs) -> list[tuple[int, bool]]:
    """(frame, whether it has an infrared image) of each pair."""
    return [(pairs[k]["frame"], "missing" not in pairs[k]) for k in range(len(pairs))]


def infrared_of(pairs: VideoPairs, frames: list) -> list[int | None]:
    """Which of `frames` is the infrared image of each pair."""
    given = [record.get("ir_pixels") for record in pairs.read(range(len(pairs)))]
    return [
        next((k for k, f in enumerate(frames) if pixels is not None and np.array_equal(f, pixels)), None)
        for pixels in given
    ]


def test_videos_of_the_same_frames(tmp_path):
    visible, infrared = noise(4), noise(4, dtype=np.uint16, channels=1)
    paths = write_clip(tmp_path / "v.mkv", visible), write_clip(tmp_path / "i.mkv", infrared)
    pairs = VideoPairs(*paths)
    for k, record in enumerate(pairs.read(range(4))):
        assert np.array_equal(record["pixels"], visible[k])
        assert np.array_equal(record["ir_pixels"], infrared[k])
        assert (record["image_id"], record["time"], record["number"]) == (k, k / 10, k)
        assert (record["file_name"], record["ir_file_name"]) == tuple(map(str, paths))
    assert [r["frame"] for r in pairs.read([1, 3])] == [1, 3]
    assert [pairs.frame(k) for k in range(len(VideoPairs(*paths, stride=3)))] == [0, 1]
    assert [r["frame"] for r in VideoPairs(*paths, stride=3).read([0, 1])] == [0, 3]


def test_other_rates_or_lengths_need_sync(tmp_path, caplog):
    fast, slow = noise(12), noise(4, channels=1)
    clips = write_clip(tmp_path / "v.mkv", fast, 30), write_clip(tmp_path / "i.mkv", slow, 10)
    words = r"v\.mkv has 12 frames at 30/s, 0\.40 s, and .*i\.mkv has 4 frames at 10/s, 0\.40 s: --sync pairs"
    with pytest.raises(UserError, match=words):
        VideoPairs(*clips)
    pairs = VideoPairs(*clips, sync=True)
    assert infrared_of(pairs, slow) == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert "1 of 12 visible frames have no infrared frame close by: they are left out" in caplog.text
    pairs = VideoPairs(*clips, sync=True, fills=True)
    assert infrared_of(pairs, slow) == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, None]
    assert pairs[11]["missing"] == "infrared"
    caplog.clear()
    pairs = VideoPairs(*clips[::-1], sync=True)
    assert infrared_of(pairs, fast) == [0, 3, 6, 9]
    assert "8 of 12 infrared frames are not used" in caplog.text


def test_sync_goes_by_time_stamps(tmp_path):
    visible = write_clip(tmp_path / "v.mkv", noise(4), stamps=[0, 100, 400, 500])
    infrared = noise(5, channels=1)
    other = write_clip(tmp_path / "i.mkv", infrared, stamps=[0, 90, 200, 390, 620])
    pairs = VideoPairs(visible, other, sync=True)
    assert infrared_of(pairs, infrared) == [0, 1, 3]
    assert [pairs[k]["time"] for k in range(3)] == [0, 0.1, 0.4]
    same = write_clip(tmp_path / "s.mkv", noise(4), stamps=[0, 110, 390, 500])
    assert len(VideoPairs(visible, same)) == 4
    shifted = write_clip(tmp_path / "t.mkv", noise(4), stamps=[0, 100, 200, 300])
    with pytest.raises(UserError, match=r"their times differ by up to 0\.20 s"):
        VideoPairs(visible, shifted)


@pytest.mark.parametrize("split", SPLITS)
def test_one_video_of_both_cameras(tmp_path, split):
    first, second = noise(6)[:3], noise(6)[3:]
    axis = 1 if "left" in split else 0
    both = [np.concatenate(pair, axis) for pair in zip(first, second, strict=True)]
    pairs = VideoPairs(write_clip(tmp_path / "both.mkv", both), None, split=split)
    swapped = split in ("right-left", "bottom-top")
    for k, record in enumerate(pairs.read(range(3))):
        halves = (
            (record["ir_pixels"], record["pixels"]) if swapped else (record["pixels"], record["ir_pixels"])
        )
        assert np.array_equal(halves[0], first[k]) and np.array_equal(halves[1], second[k])
    assert pairs.cameras == ["visible", "infrared"] and "missing" not in pairs[0]


def test_what_cannot_be_split(tmp_path):
    odd = write_clip(tmp_path / "odd.mkv", noise(2, 24, 31))
    with pytest.raises(UserError, match=r"odd.mkv is 31x24: --split left-right needs two halves"):
        list(VideoPairs(odd, None, split="left-right").read([0]))
    with pytest.raises(UserError, match="split='left-rigth'.*did you mean 'left-right'"):
        VideoPairs(odd, None, split="left-rigth")
    with pytest.raises(UserError, match=r"a.png is no video, but the other one is"):
        VideoPairs(odd, tmp_path / "a.png")


def test_a_damaged_frame_spoils_its_pairs_only(tmp_path):
    visible = write_clip(tmp_path / "v.mkv", noise(5))
    infrared = write_clip(tmp_path / "i.mkv", noise(5, channels=1), gop=1)
    damage(infrared, 2)
    records = list(VideoPairs(visible, infrared).read(range(5)))
    assert [r["number"] for r in records if "bad_pair" in r] == [2]
    assert "infrared video" in str(records[2]["bad_pair"]) and "at 0.20 s" in str(records[2]["bad_pair"])


def test_a_thread_works_ahead_but_not_too_far():
    made = []

    def items():
        for k in range(100):
            made.append(k)
            yield k

    stream = iterate_ahead(items(), 3)
    assert next(stream) == 0
    threads = threading.active_count()
    stream.close()
    assert len(made) < 10 and threading.active_count() == threads - 1
    assert list(iterate_ahead(items(), 2)) == list(range(100))


def test_errors_of_the_thread_come_after_the_items_before_them():
    def items():
        yield 1
        raise UserError("broken")

    stream = iterate_ahead(items(), 3)
    assert next(stream) == 1
    with pytest.raises(UserError, match="broken"):
        next(stream)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_a_written_video_keeps_time_stamps(tmp_path, codec, monkeypatch):
    if codec == "mpeg4":  # a build without the other
        monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    stamps = [0, 3003, 6006, 12012, 15015]
    pictures = [np.full((25, 33, 3), 40 * k, np.uint8) for k in range(5)]
    path = tmp_path / "out.mp4"
    unit = Fraction(1, 90000)
    write_video(path, zip(stamps, pictures, strict=True), Fraction(30000, 1001), unit)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        assert stream.codec_context.name == {"libx264": "h264"}.get(codec, codec)
        assert (stream.width, stream.height) == (34, 26)
    times = [float(frame.pts * stream.time_base) for frame in frames]
    assert times == pytest.approx([float(s * unit) for s in stamps], abs=6e-4)
    means = [frame.to_ndarray(format="rgb24").mean() for frame in frames]
    assert np.allclose(means, [40 * k for k in range(5)], atol=4)


def test_a_video_has_one_size(tmp_path):
    pictures = [(0, np.zeros((24, 32, 3), np.uint8)), (1, np.zeros((24, 30, 3), np.uint8))]
    with pytest.raises(UserError, match="frames change their size, 32x24 then 30x24"):
        write_video(tmp_path / "out.mp4", pictures, Fraction(10), Fraction(1, 10))
    assert not list(tmp_path.iterdir())


def test_a_video_that_cannot_be_written_names_its_place(tmp_path, monkeypatch):
    def full(self, *_):
        raise av.error.OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ivtuning.predictor.video_drawing._encode", full)
    with pytest.raises(OSError) as caught:
        write_video(tmp_path / "out.mp4", [], Fraction(10), Fraction(1, 10))
    assert user_message(caught.value).startswith(f"the disk is full while writing {tmp_path / 'out.mp4'}")
    assert not list(tmp_path.iterdir())
