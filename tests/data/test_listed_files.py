"""Files that two sets have in common, and files that are not there."""

import pytest

from ivtuning.data import listed_files
from ivtuning.data.image_files import BadPair
from ivtuning.data.listed_files import check_presence, shared_files


def test_shared_files_are_found_by_their_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    training = [
        {"file_name": "vis/1.png", "ir_file_name": "ir/1.png"},
        {"file_name": str(tmp_path / "vis/2.png")},
    ]
    test = [{"file_name": "vis/../vis/2.png", "ir_file_name": "ir/1.png"}, {"file_name": "other/1.png"}]
    assert shared_files(training, test) == [str(tmp_path / "vis/2.png"), str(tmp_path / "ir/1.png")]
    assert shared_files(training, test[1:]) == []


def test_the_first_absent_file_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("v.png", "i.png", "l.png"):
        (tmp_path / name).touch()
    whole = {"file_name": "v.png", "ir_file_name": "i.png", "sem_seg_file_name": "l.png"}
    check_presence([])
    check_presence([whole, whole | {"file_name": "gone.png", "missing": "visible"}])
    (tmp_path / "folder").mkdir()
    for change, words in (
        ({"ir_file_name": "gone.png"}, "infrared image gone.png is missing: restore it"),
        ({"file_name": "folder"}, "visible image folder is not a file"),
        ({"sem_seg_file_name": "gone.png"}, "label map gone.png is missing"),
        ({"ir_file_name": "gone.png", "missing": "visible"}, "infrared image gone.png is missing"),
    ):
        with pytest.raises(BadPair, match=words):
            check_presence([whole, whole | change])


def test_of_many_files_a_sample_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(listed_files, "LOOKED_FOR", 10)
    looked = []
    monkeypatch.setattr("os.path.isfile", lambda path: looked.append(path) or True)
    check_presence([{"file_name": str(i)} for i in range(95)])
    assert looked == [str(i) for i in range(0, 95, 10)]
