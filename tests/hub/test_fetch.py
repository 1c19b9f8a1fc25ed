"""Names of timm and of the Hugging Face Hub, with a server of this machine as the hub."""

from __future__ import annotations

import json
import resource
import sys
import time
from functools import partial

import pytest
import timm
import torch
from helpers.server import COMMIT, serve
from helpers.weights import same
from huggingface_hub import constants
from safetensors.torch import save

from ivtuning.backbones.dinov2 import DINOv2
from ivtuning.backbones.dinov3 import DINOv3
from ivtuning.backbones.eva import Eva02
from ivtuning.backbones.swin import Swin
from ivtuning.backbones.vit import PlainViT, ViTDet
from ivtuning.checkpoint.files import read_state
from ivtuning.checkpoint.pretrained import load_pretrained
from ivtuning.errors import UserError, user_message
from ivtuning.hub.names import local_path
from ivtuning.tuning import Frozen
from ivtuning.tuning.stems import VisibleOnly

STATE = {"a": torch.arange(3.0)}
NAME = "hf://lab/m3fd/adapter.safetensors"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(constants, name, str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the client's attempts
    with serve() as server:
        server.headers = {"X-Repo-Commit": COMMIT}
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        server.files["/lab/m3fd/resolve/main/adapter.safetensors"] = save(STATE)
        yield server


def refused(name):
    with pytest.raises(UserError) as error:
        local_path(name)
    assert "\n" not in str(error.value) and str(error.value).startswith(name)
    return str(error.value)


def fail(server, path, status, code, message=""):
    server.status[path] = status
    server.headers |= {"X-Error-Code": code, "X-Error-Message": message}


def test_files_of_the_hub_are_fetched_once(hub, tmp_path):
    assert same(read_state(NAME), STATE)
    asked = len(hub.requests)
    assert same(read_state(NAME), STATE) and len(hub.requests) == asked
    assert (tmp_path / "hub/models--lab--m3fd") in local_path(NAME).parents


def test_folders_and_revisions(hub):
    hub.files["/lab/m3fd/resolve/v1.0/runs/a.safetensors"] = save(STATE)
    assert same(read_state("hf://lab/m3fd/runs/a.safetensors@v1.0"), STATE)


@pytest.mark.parametrize(
    "name", ["hf://lab", "hf://lab/m3fd", "hf://lab/m3fd/", "hf://lab/m3fd@v1/a.pth", "hf://"]
)
def test_names_that_name_no_file(name):
    assert "is named hf://OWNER/REPO/FILE" in refused(name)


def test_names_that_no_repository_can_have(hub):
    assert "is no name of a repository" in refused("hf://lab../-m3fd/a.pth")


def test_files_that_a_repository_lacks(hub):
    name = "hf://lab/m3fd/adaptor.safetensors"
    fail(hub, "/lab/m3fd/resolve/main/adaptor.safetensors", 404, "EntryNotFound")
    assert "lab/m3fd has no file adaptor.safetensors: check" in refused(name)
    tree = [{"type": "file", "path": "adapter.safetensors", "size": 1, "oid": COMMIT}]
    hub.files["/api/models/lab/m3fd/tree/main"] = json.dumps(tree).encode()
    assert "did you mean 'adapter.safetensors'?" in refused(name)


@pytest.mark.parametrize(
    "status, code, words",
    [
        (404, "RevisionNotFound", ["lab/m3fd has no such revision"]),
        (401, "RepoNotFound", ["no repository lab/m3fd, or it is private", "hf auth login", "HF_TOKEN"]),
        (403, "GatedRepo", ["accept the terms at", "/lab/m3fd", "hf auth login"]),
        (401, "GatedRepo", ["accept the terms at"]),
    ],
)
def test_what_the_hub_refuses(hub, status, code, words):
    fail(hub, "/lab/m3fd/resolve/main/adapter.safetensors", status, code)
    line = refused(NAME)
    assert all(w in line for w in words), line


def test_broken_connections_end_in_one_line(hub):
    hub.limit = 20
    assert "the download failed" in refused(NAME)
    hub.limit = None
    assert same(read_state(NAME), STATE)


def test_digests_that_the_hub_states_are_demanded(hub):
    wrong = "0" * 64
    hub.etag = f'"{wrong}"'
    assert f"not {wrong[:12]} as published" in refused(NAME)
    hub.etag = None
    assert same(read_state(NAME), STATE)


def test_without_a_network(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{filename}")
    line = refused(NAME)
    assert "http://127.0.0.1:9 cannot be reached: run `hf download lab/m3fd adapter.safetensors`" in line
    assert str(tmp_path / "hub/models--lab--m3fd") in line


def test_what_was_fetched_is_there_without_a_network(hub, monkeypatch):
    model = "timm://vit_base_patch16_224.mae"
    hub.files["/timm/vit_base_patch16_224.mae/resolve/main/model.safetensors"] = save(STATE)
    places = local_path(NAME), local_path(model)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{filename}")
    assert (local_path(NAME), local_path(model)) == places


def test_newer_versions_are_fetched_and_old_ones_stay_by_revision(hub, monkeypatch):
    hub.files["/lab/m3fd/resolve/v1/adapter.safetensors"] = save(STATE)
    old = local_path(f"{NAME}@v1")
    hub.headers = {"X-Repo-Commit": "b" * 40}
    hub.files["/lab/m3fd/resolve/main/adapter.safetensors"] = save({"a": torch.ones(1)})
    assert same(read_state(NAME), {"a": torch.ones(1)})
    assert local_path(f"{NAME}@v1") == old and same(read_state(old), STATE)


def test_full_disks_and_places_that_cannot_be_written(hub, tmp_path, monkeypatch):
    hub.files["/lab/m3fd/resolve/main/large.pth"] = bytes(20_000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError) as error:
            local_path("hf://lab/m3fd/large.pth")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "raise the limit" in user_message(error.value)
    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError) as error:
        local_path(NAME)
    assert str(tmp_path / "file") in user_message(error.value)


def test_offline(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "not in the cache, and HF_HUB_OFFLINE is set: run `hf download" in refused(NAME)
    assert "--revision v1" in refused(f"{NAME}@v1") and not hub.requests
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    local_path(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert same(read_state(NAME), STATE)


def test_without_the_hubs_client(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install huggingface_hub" in refused(NAME)


@pytest.mark.parametrize("model", ["vit_base_patch16_224.may", "vit_base_patch16_22.mae"])
def test_names_that_timm_does_not_know(model):
    assert "did you mean 'vit_base_patch16_224.mae'" in refused(f"timm://{model}")


def test_models_without_weights():
    assert "has no weights of that name" in refused("timm://vit_small_patch16_36x1_224")


def test_other_schemes():
    assert "give timm://MODEL, hf://" in refused("tim://vit_base_patch16_224.mae")


def test_safetensors_come_first_and_pickles_are_read_without_running_them(hub, tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.bin")
    for size, has_both in (("base", True), ("large", False)):
        model = f"vit_{size}_patch16_224.mae"
        place = f"/timm/{model}/resolve/main"
        hub.files[f"{place}/pytorch_model.bin"] = (tmp_path / "a.bin").read_bytes()
        if has_both:
            hub.files[f"{place}/model.safetensors"] = save(STATE)
        else:
            fail(hub, f"{place}/model.safetensors", 404, "EntryNotFound")
        assert same(read_state(f"timm://{model}"), STATE if has_both else {"a": torch.zeros(1)})


VIT = dict(embed_dim=32, depth=2, num_heads=2, img_size=64)
EVA = VIT | dict(img_size=56)
DINO = dict(embed_dim=32, depth=2, num_heads=2)
SAM = VIT | dict(global_attn_indexes=(1,))
SWIN = dict(embed_dim=8, depths=(2, 2, 2), num_heads=(1, 2, 4))
STAGES = SWIN | dict(out_indices=(0, 1, 2))
# The options of timm's model, and the trunk of the same size.
PUBLISHED = {
    "vit_base_patch16_224.mae": (VIT, partial(ViTDet, global_blocks=(1,), **VIT)),
    "vit_large_patch16_224.mae": (VIT, partial(PlainViT, out_indices=(1,), **VIT)),
    "samvit_base_patch16.sa1b": (SAM, partial(ViTDet, global_blocks=(1,), **VIT)),
    "swin_base_patch4_window7_224.ms_in22k": (SWIN, partial(Swin, window_size=7, **STAGES)),
    "swin_large_patch4_window7_224.ms_in22k": (SWIN, partial(Swin, window_size=7, **STAGES)),
    "swin_large_patch4_window12_384.ms_in22k": (SWIN, partial(Swin, window_size=12, **STAGES)),
    "vit_base_patch14_reg4_dinov2.lvd142m": (EVA, partial(DINOv2, out_indices=(1,), **EVA)),
    "vit_large_patch14_reg4_dinov2.lvd142m": (EVA, partial(DINOv2, out_indices=(1,), **EVA)),
    "vit_base_patch16_dinov3.lvd1689m": (DINO, partial(DINOv3, out_indices=(1,), **DINO)),
    "vit_large_patch16_dinov3.lvd1689m": (DINO, partial(DINOv3, out_indices=(1,), **DINO)),
    "eva02_large_patch14_224.mim_m38m": (EVA, partial(Eva02, out_indices=(1,), patch_size=14, **EVA)),
}


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_trunks_load_from_timms_files(hub, model):
    options, build = PUBLISHED[model]
    theirs = timm.create_model(model, pretrained=False, **options).state_dict()
    hub.files[f"/timm/{model}/resolve/main/model.safetensors"] = save(
        {n: t.contiguous() for n, t in theirs.items()}
    )
    trunk = build(VisibleOnly(), Frozen())
    report = load_pretrained(trunk, f"timm://{model}")
    assert not report.fresh and not report.reshaped and trunk.base_file == f"timm://{model}"
    # Plain ViTs lack relative positions, and ImageNet's Swins the norms on their outputs.
    assert all(".rel_pos_" in n for n in report.missing) and all(
        n.startswith("norm") for n in report.identity
    )
    assert {n.partition(".")[0] for n in report.ignored} <= {"head", "norm", "fc_norm", "neck", "cls_token"}
