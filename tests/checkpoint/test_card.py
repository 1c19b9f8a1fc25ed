"""Model cards: what they say, what their lines load, and which README.md they replace."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.config import instantiate
from helpers.tools import load_tool
from helpers.weights import randomize, same, save

from ivtuning.checkpoint import load_weights
from ivtuning.checkpoint.adapter import read_metadata
from ivtuning.checkpoint.card import model_card, write_card
from ivtuning.checkpoint.pretrained import load_pretrained
from ivtuning.config import load_config
from ivtuning.errors import run_tool
from ivtuning.hub.fetch import repository

CONFIG = "configs/synthetic/ivtuning.py"
NANO = [
    "model.backbone.net.tuner.hidden_dim=8",
    "model.backbone.net.depth=2",
    "model.backbone.net.global_blocks=[1]",
]


HEADER = {
    "stem": {"name": "SumStem"},
    "tuner": {"name": "LoRA"},
    "trunk": "Swin",
    "widths": [8, 16],
    "groups": ["backbone", "task"],
    "fingerprint": "0" * 64,
    "base_weights": None,
    "versions": {"ivtuning": "0.1.0"},
    "metadata": {},
}


def export(folder, *args, overrides=(), config=CONFIG):
    """Export a model whose base is folder/base.pth; returns the card."""
    model = randomize(instantiate(load_config(CONFIG, NANO).model), 1)
    weights = save(folder / "model.pth", {"model": model.state_dict()})
    output = folder / "out" / "m3fd.safetensors"
    argv = ["--config-file", config, "--weights", weights, "--output", output, *args, *NANO, *overrides]
    with pytest.raises(SystemExit, match="0"):
        run_tool(load_tool("export_adapter").main, [*map(str, argv)])
    return (folder / "out" / "README.md").read_text(), model


def front(card):
    return yaml.safe_load(card.split("---\n")[1])


def table(card):
    return dict(re.findall(r"^\| (.+?) \| (.+) \|$", card, re.MULTILINE))


def test_what_a_card_says(tmp_path):
    notes = ["--note", "bbox/AP=41.2", "--note", "license=apache-2.0", "--note", "by=a|b"]
    card, _ = export(tmp_path, *notes, overrides=["train.init_checkpoint=timm://vit_base_patch16_224.mae"])
    assert front(card) == {
        "library_name": "ivtuning",
        "license": "apache-2.0",
        "pipeline_tag": "object-detection",
        "base_model": "timm/vit_base_patch16_224.mae",
        "tags": ["infrared", "multispectral", "parameter-efficient-fine-tuning", "IVTuning"],
    }
    facts, header = table(card), read_metadata(tmp_path / "out/m3fd.safetensors")
    assert facts["base"] == "`timm://vit_base_patch16_224.mae`"
    assert facts["fingerprint of the base"] == f"`{header['fingerprint']}`"
    assert facts["method"].startswith("IVTuning (") and "hidden_dim=8" in facts["method"]
    assert (facts["trained on"], facts["evaluated on"]) == ("synthetic_train", "synthetic_val")
    assert (facts["bbox/AP"], facts["license"], facts["by"]) == ("41.2", "apache-2.0", r"a\|b")
    assert facts["trunk"] == "ViTDet, 2 blocks, 96 wide" and facts["parts"] == "stem, tuner, neck, heads"
    assert str(tmp_path) not in card and "train.init_checkpoint" not in card


def test_the_lines_of_a_card_load_what_was_exported(tmp_path, monkeypatch):
    card, model = export(tmp_path, overrides=["train.init_checkpoint=some/base.pth"])
    base = {n: t for n, t in model.state_dict().items() if n.startswith("backbone.net.")}
    base = {n: t for n, t in base.items() if n.split(".")[2] not in ("stem", "tuner")}
    save(tmp_path / "base.pth", base)
    call = ast.parse(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]).body[1].value
    options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    assert ast.literal_eval(call.args[0]) == CONFIG and options["weights"] == "PATH/base.pth"
    other = instantiate(load_config(CONFIG, options["overrides"]).model)
    place = options["adapter"].replace("hf://OWNER/REPO", str(tmp_path / "out"))
    load_weights(other, tmp_path / "base.pth", place)
    assert same(other.state_dict(), model.state_dict())
    command = shlex.split(re.search(r"```\n(tools/train_net.py .*)\n```", card)[1])
    assert (
        command[1:3] == ["--config-file", CONFIG]
        and command[-len(options["overrides"]) :] == options["overrides"]
    )


def test_without_notes_and_heads(tmp_path):
    card, _ = export(tmp_path, "--only", "backbone", overrides=["train.init_checkpoint="])
    assert front(card)["license"] == "unknown" and "base_model" not in front(card)
    facts = table(card)
    assert facts["license"].startswith("not stated") and facts["parts"] == "stem, tuner"
    assert 'ivtuning.load_adapter(model, "hf://OWNER/REPO/m3fd.safetensors")' in card


@pytest.mark.parametrize(
    "name, repo",
    [
        ("timm://vit_base_patch16_224.mae", "timm/vit_base_patch16_224.mae"),
        ("timm://vit_base_patch16_224.mae#model", "timm/vit_base_patch16_224.mae"),
        ("hf://lab/m3fd/base.pth@v1", "lab/m3fd"),
        ("timm://nothing", None),
        ("hf://lab", None),
        ("https://host/base.pth", None),
        ("base.pth", None),
    ],
)
def test_the_repository_of_a_base(name, repo):
    assert repository(name) == repo


def test_a_card_replaces_its_own_kind_alone(tmp_path):
    adapter, header = tmp_path / "a.safetensors", HEADER
    card = write_card(adapter, model_card(adapter, header | {"metadata": {"AP": "1"}}, CONFIG))
    assert card == tmp_path / "README.md" and table(card.read_text())["AP"] == "1"
    write_card(adapter, model_card(adapter, header | {"metadata": {"AP": "2"}}, CONFIG))
    assert table(card.read_text())["AP"] == "2"
    card.write_text("mine\n")
    assert write_card(adapter, model_card(adapter, header, CONFIG)) is None and card.read_text() == "mine\n"
    card.write_bytes("à moi".encode("latin-1"))
    assert write_card(adapter, model_card(adapter, header, CONFIG)) is None
    card.unlink()
    card.mkdir()
    assert write_card(adapter, model_card(adapter, header, CONFIG)) is None


def test_folders_of_the_machine_and_settings_of_training_are_left_out():
    overrides = ["method=LoRA", "train.output_dir=/home/me/out", "optimizer.lr=1", "dataloader.train.seed=1"]
    text = model_card(
        Path("/home/me/a.safetensors"), HEADER, "/home/me/ivtuning/configs/M3FD/x.py", overrides
    )
    assert 'weights="PATH/base.pth"' in text and table(text)["base"] == "not noted"
    assert "/home" not in text and '"configs/M3FD/x.py"' in text and 'overrides=["method=LoRA"]' in text


@pytest.mark.parametrize(
    "override, shown",
    [
        ("data.val=/home/me/sets/val.json", "data.val=val.json"),
        ("data.images=~/my images/", "data.images=my images/"),
        ("data.val=['/home/me/a b.json',../c.json]", "data.val=['a b.json',c.json]"),
        ("dataloader.test.dataset.names=synthetic_val", "dataloader.test.dataset.names=synthetic_val"),
    ],
)
def test_folders_of_data_are_left_out(override, shown):
    assert shlex.join([shown]) in model_card(Path("a.safetensors"), HEADER, CONFIG, [override])


def test_a_card_names_a_config_that_was_given_by_its_short_name(tmp_path, pairs):
    assert CONFIG in export(tmp_path, config="synthetic/ivtuning")[0]


def test_a_base_is_called_by_its_whole_name_without_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("IVTUNING_CACHE", str(tmp_path))
    from ivtuning.hub.download import place_of

    url = "https://host.org/weights/base.pth?token=secret"
    model = randomize(instantiate(load_config(CONFIG, NANO).model), 1)
    place = place_of(url, tmp_path)
    place.parent.mkdir(parents=True)
    torch.save(model.state_dict(), place)
    load_pretrained(model, url)
    assert model.backbone.net.base_file == "https://host.org/weights/base.pth"
