"""Weights named by an address, in the tools: fetched before the run starts, or refused in one line."""

from __future__ import annotations

import pytest
import torch
from helpers.isolation import Case, refuse, run
from helpers.runs import TINY
from helpers.server import serve

from ivtuning.config import build, load_config

CONFIG = "configs/synthetic/ivtuning.py"
BASE = "/base.pth"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> bytes:
    """A trunk for the tiny model."""
    file = tmp_path_factory.mktemp("base") / "base.pth"
    state = build(load_config(CONFIG, TINY), "model").state_dict()
    places = ("backbone.net.stem.", "backbone.net.tuner.")
    torch.save(
        {n: t for n, t in state.items() if n.startswith("backbone.net.") and not n.startswith(places)}, file
    )
    return file.read_bytes()


@pytest.fixture
def environment(synthetic, tmp_path):
    return {
        "no_proxy": "127.0.0.1",
        "DETECTRON2_DATASETS": str(synthetic),
        "IVTUNING_CACHE": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "",
    }


def train(url, *overrides):
    options = [*TINY[:-1], "train.device=cpu", "train.max_iter=1", "dataloader.train.num_workers=0"]
    options += ["dataloader.test.num_workers=0", "train.output_dir=out", f"train.init_checkpoint={url}"]
    return ["--config-file", CONFIG, *options, *overrides]


def evaluate(url, adapter):
    return [*train(url), "--eval-only", "--adapter", adapter]


@pytest.mark.slow
def test_training_starts_from_an_address(base, environment, tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    with serve() as server:
        server.files[BASE] = base
        outcome = run("tools/train_net.py", train(server.url + BASE), folder, environment)
        assert outcome.code == 0, outcome.err
        assert f"from {server.url}{BASE}" in outcome.out + outcome.err
        assert len(server.requests) == 1 and (folder / "out/model_final.pth").is_file()


@pytest.mark.parametrize(
    "name, argv, says",
    [
        (
            "no such file",
            lambda url: train(f"{url}/gone.pth"),
            ["/gone.pth", "HTTP 404", "check the address"],
        ),
        ("no such model", lambda url: train("timm://vit_base_patch16_224.may"), ["did you mean", "224.mae"]),
        ("no such scheme", lambda url: train("tmm://x"), ["timm://MODEL", "hf://OWNER/REPO/FILE"]),
        ("a broken download", lambda url: train(url + BASE), ["ended after 800 of", "goes on from there"]),
        (
            "no such adapter",
            lambda url: evaluate(url + "/ok.pth", f"{url}/a.safetensors"),
            ["a.safetensors", "404"],
        ),
    ],
)
def test_names_that_cannot_be_fetched(base, environment, tmp_path, name, argv, says):
    with serve() as server:
        server.files |= {BASE: base, "/ok.pth": b"not read before the adapter is there"}
        server.limit = 100
        if name == "no such adapter":
            server.limit = None
        case = Case(name, "tools/train_net.py", lambda _: argv(server.url), says, tuple(environment.items()))
        refuse(case, tmp_path)
