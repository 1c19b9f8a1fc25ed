"""Writing several files, or a folder, all or none."""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ivtuning.errors import UserError
from ivtuning.utils.files import StagedFiles, atomic_folder, atomic_write


def content(root: Path) -> dict[str, str]:
    return {p.relative_to(root).as_posix(): p.read_text() for p in root.rglob("*") if p.is_file()}


def test_nothing_changes_before_commit(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    (tmp_path / "same.txt").write_text("same")
    with StagedFiles() as staged:
        assert staged.write(tmp_path / "a.txt", b"new") == "replace"
        assert staged.write(tmp_path / "far/b.txt", b"new") == "create"
        assert staged.write(tmp_path / "same.txt", b"same") == "unchanged"
        assert (tmp_path / "a.txt").read_text() == "old" and not (tmp_path / "far").exists()
        staged.commit()
    assert content(tmp_path) == {"a.txt": "new", "far/b.txt": "new", "same.txt": "same"}


def test_a_failure_leaves_nothing_behind(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(TypeError), StagedFiles() as staged:
        staged.write(tmp_path / "a.txt", b"new")
        staged.write(tmp_path / "far/b.txt", b"new")
        raise TypeError("no JSON")
    assert content(tmp_path) == {"a.txt": "old"} and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_dry_run_touches_nothing(tmp_path):
    with StagedFiles(dry_run=True) as staged:
        assert staged.write(tmp_path / "b.txt", b"new") == "create"
        staged.commit()
    assert not list(tmp_path.iterdir())


def test_the_last_content_of_a_path_counts_and_threads_do_not_mix(tmp_path):
    with StagedFiles() as staged:
        staged.write(tmp_path / "0.txt", b"first")
        with ThreadPoolExecutor(8) as pool:
            list(
                pool.map(lambda i: staged.write(tmp_path / f"{i % 50}.txt", str(i % 50).encode()), range(200))
            )
        staged.commit()
    assert content(tmp_path) == {f"{i}.txt": str(i) for i in range(50)}


def test_unwritable_places_are_reported(tmp_path):
    (tmp_path / "file").write_text("no folder")
    message = "cannot write .*file/a.txt .*: use --output"
    with pytest.raises(UserError, match=message), StagedFiles(advice="use --output") as staged:
        staged.write(tmp_path / "file/a.txt", b"new")
        staged.commit()
    (tmp_path / "folder/inside").mkdir(parents=True)
    with (
        pytest.raises(UserError, match="cannot write .*folder .*: choose another place"),
        StagedFiles() as staged,
    ):
        staged.write(tmp_path / "folder", b"new")
        staged.commit()
    assert content(tmp_path) == {"file": "no folder"} and not list(tmp_path.glob(".*"))


def test_a_folder_in_the_way_stops_all_files(tmp_path):
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match="b .it is a folder"), StagedFiles() as staged:
        staged.write(tmp_path / "a", b"1")
        staged.write(tmp_path / "b", b"2")
        staged.commit()
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError) as caught, StagedFiles() as staged:
        staged.write(tmp_path / "a.txt", b"new")
    assert caught.value.filename == str(tmp_path / "a.txt") and not list(tmp_path.iterdir())


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    root = tmp_path / "set"
    with atomic_folder(root) as new:
        (new / "a.txt").write_text("1")
        assert not root.exists()
    with pytest.raises(ValueError), atomic_folder(root) as new:
        (new / "b.txt").write_text("2")
        raise ValueError
    assert content(tmp_path) == {"set/a.txt": "1"}
    with atomic_folder(root) as new:
        (new / "b.txt").write_text("2")
    assert content(tmp_path) == {"set/b.txt": "2"} and [p.name for p in tmp_path.iterdir()] == ["set"]


def test_a_file_is_written_with_its_folder(tmp_path):
    with atomic_write(tmp_path / "new" / "a.txt") as temp:
        temp.write_text("all")
        assert not (tmp_path / "new" / "a.txt").exists()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.txt"]
    assert (tmp_path / "new" / "a.txt").read_text() == "all"


def test_a_failure_leaves_the_old_file(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(RuntimeError), atomic_write(tmp_path / "a.txt") as temp:
        temp.write_text("ha")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"


def test_a_place_that_takes_no_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), atomic_write(tmp_path / "file" / "a.txt"):
        pass
