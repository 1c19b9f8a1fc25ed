"""Reading weight files: formats, wrappers, damage, and where to get a missing one."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from urllib.error import URLError

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.weights import same, save

from ivtuning.checkpoint.files import local_path, read_state
from ivtuning.errors import UserError


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
    "content, message", [([1, 2], "holds a list"), ({"epoch": 3, "note": "x"}, "no tensors.*epoch, note")]
)
def test_files_without_a_state_dict(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read_state(save(tmp_path / "x.pth", content))


@pytest.mark.parametrize(
    "name, message",
    [
        ("mae_pretrain_vit_base.pth", "curl -L .*fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_base.pth"),
        ("model_final_61ccd1.pkl", "mask_rcnn_vitdet_b/f325346929/model_final_61ccd1.pkl"),
        ("vit_base_patch16_224.mae.safetensors", "s.save_file.timm.create_model.'vit_base_patch16_224.mae'"),
        ("vit_base_patch16_224.pth", "torch as s; s.save.timm.create_model.'vit_base_patch16_224'"),
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


def test_urls_are_fetched_once_and_errors_say_where_to_put_the_file(tmp_path, monkeypatch):
    from iopath.common import file_io

    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))

    def offline(url, folder, filename=None):
        raise URLError("no network")

    monkeypatch.setattr(file_io, "download", offline)
    url = "detectron2://ImageNetPretrained/MAE/x.pth?matching_heuristics=True"
    place = tmp_path / "detectron2/ImageNetPretrained/MAE/x.pth"
    with pytest.raises(UserError, match="dl.fbaipublicfiles.com/.*MAE/x.pth .no network.*put it at") as error:
        read_state(url)
    assert str(error.value).endswith(str(place))
    save(place, {"a": torch.ones(1)})
    assert same(read_state(url), {"a": torch.ones(1)})
    assert local_path("https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MAE/x.pth") == place
