"""Places that cannot be read or written end in one line that names them, and so do lost processes."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest
from helpers.isolation import Case, refuse
from helpers.runs import TINY
from helpers.tools import ROOT

from ivtuning.errors import UserError, user_message
from ivtuning.utils.files import StagedFiles, atomic_write, make_folder

LONG = "x" * 300


@pytest.mark.parametrize(
    "number, words",
    [
        (errno.ENOSPC, "the disk is full while writing /data/a.pth: free some space"),
        (errno.EDQUOT, "the disk quota is used up while writing /data/a.pth"),
        (errno.EFBIG, "the file would exceed the largest size allowed while writing /data/a.pth"),
        (errno.EROFS, "/data/a.pth: the file system is read-only: choose another place"),
        (errno.EACCES, "/data/a.pth: permission denied: change the permissions"),
        (errno.EPERM, "/data/a.pth: permission denied"),
        (errno.ENOTDIR, "/data/a.pth: a part of the path is a file"),
        (errno.EISDIR, "/data/a.pth: it is a folder, not a file"),
        (errno.EEXIST, "/data/a.pth: something else has this name"),
        (errno.ENAMETOOLONG, "/data/a.pth: the name is too long"),
        (errno.ELOOP, "/data/a.pth: its links form a circle"),
        (errno.ENOENT, "/data/a.pth: no such file or folder"),
        (errno.ESTALE, "/data/a.pth: "),
        (errno.EIO, "/data/a.pth: "),
    ],
)
def test_every_error_of_a_place_is_a_line(number, words):
    line = user_message(OSError(number, os.strerror(number), "/data/a.pth"))
    assert line.startswith(words) and "\n" not in line and "None" not in line


def test_an_error_that_names_no_place_is_a_bug():
    assert user_message(OSError(errno.ENOENT, "No such file")) is None
    assert user_message(ConnectionResetError(errno.ECONNRESET, "reset")) is None
    assert user_message(OSError("anything")) is None
    assert user_message(RuntimeError("a bug")) is None
    assert user_message(RuntimeError("out of resource: shared memory, Required: 262144")) is None  # Triton's


@pytest.mark.parametrize(
    "error, words",
    [
        (OSError(errno.ENOSPC, "No space left on device", "/dev/shm/torch_1_2"), "--shm-size"),
        (RuntimeError("unable to write to file </torch_71_9>: No space left on device (28)"), "--shm-size"),
        (RuntimeError("unable to allocate shared memory(shm) for file </torch_7>: (28)"), "--shm-size"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that"),
            "--shm-size",
        ),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            "was killed by signal: Killed: most often the memory is full: lower num_workers",
        ),
        (
            RuntimeError("DataLoader worker (pid(s) 7, 9) exited unexpectedly"),
            "exited unexpectedly: most often the memory is full",
        ),
        (
            RuntimeError(
                "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [::1]"
            ),
            "another process of this run has ended",
        ),
    ],
)
def test_lost_processes_and_shared_memory_are_lines(error, words):
    line = user_message(error)
    assert words in line and "\n" not in line and "disk" not in line


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM, errno.ELOOP])
def test_writers_name_a_place_that_takes_no_file(tmp_path, monkeypatch, number):
    def refuse_to_open(*args, **kwargs):
        raise OSError(number, os.strerror(number), "elsewhere")

    monkeypatch.setattr(os, "replace", refuse_to_open)
    with (
        pytest.raises(UserError, match=f"{tmp_path}/a.txt cannot be written"),
        atomic_write(tmp_path / "a.txt") as t,
    ):
        t.write_text("a")
    with pytest.raises(UserError, match=f"cannot write {tmp_path}/b.txt"), StagedFiles() as staged:
        staged.write(tmp_path / "b.txt", b"b")
        staged.commit()
    assert not list(tmp_path.iterdir())


def test_a_folder_is_tried_before_it_is_needed(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file/in", tmp_path / LONG, tmp_path / "a/b" / LONG):
        with pytest.raises(UserError, match="cannot be written"):
            make_folder(place)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert make_folder(tmp_path / "new/folder") == [tmp_path / "new/folder", tmp_path / "new"]
    assert make_folder(tmp_path / "new/folder") == []
    assert not list((tmp_path / "new/folder").iterdir())


def test_a_limit_of_file_sizes_is_no_end_without_a_word(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError) as error, atomic_write(tmp_path / "a.txt") as temp:
            temp.write_bytes(bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "largest size allowed while writing" in user_message(error.value)
    assert not list(tmp_path.iterdir())


def _train_into(place: str):
    def prepare(folder: Path) -> list[str]:
        (folder / "file").touch()
        (folder / "loop").symlink_to("loop")
        return [
            "--config-file",
            str(ROOT / "configs/synthetic/ivtuning.py"),
            *TINY,
            f"train.output_dir={place}",
        ]

    return prepare


def _evaluate_into(place: str):
    return lambda folder: [*_train_into(place)(folder), "--eval-only", "--weights", "file"]


def _output(folder: Path) -> list[str]:
    (folder / "file").touch()
    return ["--output", "file"]


TRAIN = "tools/train_net.py"
CASES = [
    Case("a demo into a file", "tools/demo.py", _output, ["file cannot be written"]),
    Case(
        "a file as the folder",
        TRAIN,
        _train_into("file"),
        ["file cannot be written", "choose another folder"],
    ),
    Case("a folder below a file", TRAIN, _train_into("file/out"), ["file/out cannot be written"]),
    Case("a name too long", TRAIN, _train_into(LONG), ["cannot be written", "name too long"]),
    Case("a link to itself", TRAIN, _train_into("loop/out"), ["loop/out cannot be written"]),
    Case(
        "a kernel's folder", TRAIN, _train_into("/proc/nowhere/out"), ["/proc/nowhere/out cannot be written"]
    ),
    Case("no folder", TRAIN, _train_into(""), ["train.output_dir: it is empty"]),
    Case("an evaluation into a file", TRAIN, _evaluate_into("file"), ["file cannot be written"]),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_places_that_cannot_be_written_are_refused(case, tmp_path):
    refuse(case, tmp_path)
