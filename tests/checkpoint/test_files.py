"""Reading weight files: formats, wrappers, damage, and where to get a missing one."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
import tarfile
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.weights import same, save

from ivtuning.checkpoint.files import read_state
from ivtuning.errors import UserError
from ivtuning.hub.names import check_output


def test_wrapped_formats_read_alike(tmp_path):
    state = {"a.b": torch.arange(3.0), "a.c": torch.ones(2, dtype=torch.int64)}
    files = [
        save(tmp_path / "a.pth", state),
        save(tmp_path / "b.bin", {"state_dict": OrderedDict((f"module.{n}", t) for n, t in state.items())}),
        save(tmp_path / "c.pt", {"model": {"state_dict": state}, "epoch": 1}),
        save(tmp_path / "d.pth", {n: t.numpy() for n, t in state.items()}),
        tmp_path / "e.safetensors",
    ]
    safetensors.torch.save_file(state, files[-1])
    for protocol in (2, 4, 5):
        files.append(tmp_path / f"p{protocol}.pkl")
        files[-1].write_bytes(pickle.dumps({"model": {n: t.numpy() for n, t in state.items()}}, protocol))
    for file in files:
        assert same(read_state(file), state), file


@pytest.mark.parametrize("name", ["x.pth", "x.PTH", "x.pkl", "x.bin", "x.safetensors", "x.ckpt", "weights"])
@pytest.mark.parametrize("form", ["zip", "legacy", "numpy", "safetensors"])
def test_names_do_not_tell_what_a_file_is(tmp_path, name, form):
    state, path = {"a.b": torch.arange(3.0)}, tmp_path / name
    if form == "safetensors":
        safetensors.torch.save_file(state, path)
    elif form == "numpy":
        path.write_bytes(pickle.dumps({"model": {n: t.numpy() for n, t in state.items()}}))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    assert same(read_state(path), state)


def _tar(path):
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("model.pth"))


def _npz(path):
    with open(path, "wb") as f:
        np.savez(f, a=np.ones(1))


def _npy(path):
    with open(path, "wb") as f:
        np.save(f, np.ones(1))


def _torchscript(path):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.ones(1, 1)), path)


def _exported(path):
    torch.export.save(torch.export.export(torch.nn.Linear(1, 1), (torch.ones(1, 1),)), f"{path}.pt2")
    os.rename(f"{path}.pt2", path)


def _header(text):
    return lambda path: path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))


OTHERS = {
    "page": (lambda p: p.write_text("\n<!DOCTYPE html><html>"), "a web page, not the file itself"),
    "lfs": (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), "LFS pointer.*git lfs"),
    "gzip": (lambda p: p.write_bytes(gzip.compress(b"x")), "a gzip archive: unpack it"),
    "tar": (_tar, "a tar archive: unpack it"),
    "npz": (_npz, "an .npz archive of numpy"),
    "npy": (_npy, "a numpy array"),
    "torchscript": (_torchscript, "a TorchScript program, which would run"),
    "exported": (_exported, "a program of torch.export"),
    "onnx": (lambda p: p.write_bytes(b"\x08\x07\x12\x07pytorch\x1a\x052.0.0:"), "an ONNX model"),
    "list of parts": (lambda p: p.write_text('{"metadata": {}, "weight_map": {}}'), "in several parts"),
    "text": (lambda p: p.write_text("model:\n  depth: 12\n"), "a text file, which begins with 'model:"),
    "noise": (lambda p: p.write_bytes(bytes(range(256))), "no file of weights .256 bytes"),
    "long header": (lambda p: p.write_bytes(struct.pack("<Q", 1 << 39) + b'{"a":'), "truncated, damaged"),
    "large tensor": (
        _header(b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'),
        "truncated, damaged",
    ),
    "overlapping tensors": (
        _header(
            b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
            b'"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
        ),
        "truncated, damaged",
    ),
    "pipe": (os.mkfifo, "a device or a pipe"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", OTHERS)
def test_files_of_other_kinds_are_named(tmp_path, kind):
    make, message = OTHERS[kind]
    path = tmp_path / "weights.pth"
    make(path)
    with pytest.raises(UserError, match=message) as error:
        read_state(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["~nobody-of-this-name/x.pth", "x" * 5000, "x.pth/y.pth"])
def test_paths_that_cannot_be(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "x.pth", {"a": torch.ones(1)})
    with pytest.raises(UserError, match="check the path"):
        read_state(path)


@pytest.mark.parametrize("alias", ["same", "relative", "symlink", "hard link", "key"])
def test_an_output_is_none_of_the_inputs(tmp_path, monkeypatch, alias):
    monkeypatch.chdir(tmp_path)
    path, link = save(tmp_path / "x.pth", {"a": torch.ones(1)}), tmp_path / "link.pth"
    given, output = str(path), path
    if alias == "relative":
        output = "./x.pth"
    elif alias == "symlink":
        link.symlink_to(path)
        output = link
    elif alias == "hard link":
        os.link(path, link)
        output = link
    elif alias == "key":
        given += "#ema"
    with pytest.raises(UserError, match="is the file to read, .*x.pth: name another one"):
        check_output(output, "https://x.org/y.pth", given)
    check_output(tmp_path / "new.pth", given)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match="is the file to read, .*x.pth: name another one"):
        check_output(path, "~/x.pth")
    with pytest.raises(UserError, match="is a folder"):
        check_output(tmp_path, given)


class _Harm:
    def __reduce__(self):
        return (print, ("code ran",))


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_pickled_code_is_not_run(tmp_path, suffix, capsys):
    path = tmp_path / f"bad{suffix}"
    content = {"model": {"x": torch.zeros(1) if suffix == ".pth" else np.zeros(1)}, "hook": _Harm()}
    torch.save(content, path) if suffix == ".pth" else path.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=r"pickles a \S*print"):
        read_state(path)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
@pytest.mark.parametrize("size", [0, 50, -7])
def test_damaged_files(tmp_path, suffix, size):
    path = tmp_path / f"x{suffix}"
    state = {"a": torch.zeros(100)}
    if suffix == ".pth":
        torch.save(state, path)
    elif suffix == ".pkl":
        path.write_bytes(pickle.dumps({"a": state["a"].numpy()}))
    else:
        safetensors.torch.save_file(state, path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match="truncated, damaged"):
        read_state(path)


@pytest.mark.parametrize(
    "content, message",
    [([1, 2], "holds no state dict but a list"), ({"epoch": 3, "note": "x"}, "no tensors.*epoch, note")],
)
def test_files_without_a_state_dict(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read_state(save(tmp_path / "x.pth", content))


@pytest.mark.parametrize(
    "name, message",
    [
        ("mae_pretrain_vit_base.pth", "its address instead, https://.*/mae/pretrain/mae_pretrain_vit_base.pth"),
        ("model_final_61ccd1.pkl", "mask_rcnn_vitdet_b/f325346929/model_final_61ccd1.pkl"),
        ("vit_base_patch16_224.mae.safetensors", "give timm://vit_base_patch16_224.mae instead"),
        ("vit_base_patch16_224.pth", "give timm://vit_base_patch16_224 instead"),
        ("model_finall.pth", "did you mean 'model_final.pth'"),
        ("zzz.pth", "check the path"),
        ("", "is a folder"),
    ],
)  # fmt: skip
def test_missing_files_say_where_to_get_them(tmp_path, name, message):
    (tmp_path / "model_final.pth").touch()
    with pytest.raises(UserError, match=message) as error:
        read_state(tmp_path / name)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
