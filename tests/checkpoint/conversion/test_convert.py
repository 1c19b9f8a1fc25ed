"""Public detectors as a start: converted by the tool or when they are loaded, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from detectron2.config import instantiate
from helpers import foreign
from helpers.conversion import CASCADE, CODINO, DINO, SMALL, build, converted, plain, reference
from helpers.tools import load_tool
from helpers.weights import randomize, same

from ivtuning.checkpoint import load_weights
from ivtuning.checkpoint.conversion import FAMILIES
from ivtuning.checkpoint.files import read_state
from ivtuning.config import load_config
from ivtuning.errors import UserError, run_tool
from ivtuning.hub.names import local_path, split_key, split_kind


def tool(*arguments) -> int:
    module = load_tool("convert_checkpoint")
    with pytest.raises(SystemExit) as end:
        run_tool(module.main, list(map(str, arguments)))
    return end.value.code


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_dino_through_the_tool(tmp_path, capsys, suffix):
    source = build(DINO)
    torch.save({"model": foreign.idea(plain(source), layers=2), "epoch": 3}, tmp_path / "in.pth")
    out = tmp_path / "new" / f"out.{suffix}"
    # Words in any order.
    words = ["--from", "dino", tmp_path / "in.pth", out, "--config-file", DINO, *SMALL[DINO]]
    assert tool(*words[:3], *SMALL[DINO], *words[3:6], "--json") == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert same(read_state(out), plain(source))
    assert printed["class_layers"] == printed["misfits"] == printed["missing"] == []
    assert len(printed["taken"]) == len(plain(source)) and 0 < printed["renamed"] < len(printed["taken"])
    assert all(n.startswith("backbone.0.") and n.endswith("index") for n in printed["unused"])
    assert len(printed["unused"]) == 5

    ours = build(DINO)
    randomize(ours, 2)
    ours.backbone.net.stem.load_state_dict(source.backbone.net.stem.state_dict())
    ours.backbone.net.tuner.load_state_dict(source.backbone.net.tuner.state_dict())
    report = load_weights(ours, out, strict=False)
    assert {n.split(".")[2] for n in report.fresh} == {"stem", "tuner"}
    pair = {name: torch.full((3, 100, 136), 90, dtype=torch.uint8) for name in ("image", "image_ir")}
    with torch.no_grad():
        expected, predicted = (m([pair])[0]["instances"] for m in (source, ours))
    assert torch.equal(predicted.scores, expected.scores) and len(predicted.scores)
    assert torch.equal(predicted.pred_boxes.tensor, expected.pred_boxes.tensor)


def test_other_classes_start_anew(tmp_path, capsys):
    torch.save({"model": foreign.idea(plain(build(DINO, "model.num_classes=9")), 2)}, tmp_path / "in.pth")
    out = tmp_path / "out.safetensors"
    assert tool("--from", "dino", tmp_path / "in.pth", out, "--config-file", DINO, *SMALL[DINO]) == 0
    text = capsys.readouterr().out
    assert "made for other classes: transformer.decoder.class_embed.0.weight: 9x32 in the file, 6x32" in text
    assert "class layers, as initialized            5" in text and "stem and tuner, as initialized" in text
    model = build(DINO)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    report = load_weights(model, out, strict=False)
    classes = reference(DINO)[1]
    assert len(classes) == 5 and classes == {n for n in report.fresh if not n.startswith("backbone.")}
    assert all(torch.equal(model.state_dict()[n], before[n]) for n in classes)


REFUSED = {
    "another family": ("mmdet", foreign.idea, DINO, "no checkpoint of .*mmdetection: give --from dino .IDEA"),
    "no family": (
        "dino",
        lambda s, n: {"x.y": torch.ones(1)},
        DINO,
        "nor of any known kind: its first names are x.y",
    ),
    "another backbone": (
        "dino",
        lambda s, n: {k.replace("patch_embed", "stem"): t for k, t in foreign.idea(s, n).items()},
        DINO,
        "no checkpoint of IDEA-Research/DINO on a backbone that is known here",
    ),
    "nearest family": (
        "mmdet",
        lambda s, n: {k: t for k, t in foreign.idea(s, n).items() if not k.startswith("backbone")},
        DINO,
        "nearest is --from d.* whose backbone it lacks",
    ),
    "another detector": (
        "dino",
        foreign.idea,
        CASCADE,
        "fits 0 of the .* take a config of the file's detector",
    ),
    "another trunk": (
        "dino",
        lambda s, n: {k: t for k, t in foreign.idea(s, n).items() if ".blocks.1." not in k},
        DINO,
        r"has 1-1-1-1 blocks, the trunk 2-1-1-1: set depths=\[1, 1, 1, 1\]",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    kind, make, config, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as error:
        converted(kind, make(plain(build(DINO)), 2), config)
    assert str(error.value).startswith("file: ") and "\n" not in str(error.value)


def test_wrong_commands_end_in_one_line_and_write_nothing(tmp_path, capsys):
    source, out = tmp_path / "in.pth", tmp_path / "out.safetensors"
    torch.save({"x.y": torch.ones(1)}, source)
    before = source.read_bytes()
    for words, message in (
        (["--from", "dino", source, out], "nor of any known kind"),
        (["--from", "dino", source, tmp_path / "out.bin"], "ends in .safetensors or .pth"),
        (["--from", "dino", source, source], "is the file to read"),
        (["--from", "dino", tmp_path / "none.pth", out], "no file"),
        (["--from", "dino", source, out, "third"], "give INPUT and OUTPUT"),
        (["--from", "dine", source, out], "invalid choice: 'dine'"),
        (["--from", "dino", source], "OUTPUT"),
    ):
        assert tool(*words, "--config-file", DINO, *SMALL[DINO]) == 1
        text = capsys.readouterr().err
        assert text.startswith("error: ") and message in text and len(text.splitlines()) == 1
    assert source.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["in.pth"]


def test_kinds_of_the_tool_are_the_families():
    module = load_tool("convert_checkpoint")
    assert list(module.KINDS) == list(FAMILIES)


def test_configs_start_from_detectors_that_are_converted():
    for config, kind in ((DINO, "detrex-dino"), (CODINO, "codino")):
        start = load_config(config, ["method=Full"]).train.init_checkpoint
        assert split_kind(start)[0] == kind and split_key(start)[0].startswith("https://")
    file = "detrex-dino+https://a.org/b.pth"
    assert load_config(DINO, [f"train.init_checkpoint={file}"]).train.init_checkpoint == file


def test_a_detector_is_converted_when_it_is_loaded(tmp_path):
    source, file = build(DINO), tmp_path / "in.pth"
    torch.save({"model": foreign.idea(plain(source), layers=2), "epoch": 3}, file)
    cfg = load_config(DINO, SMALL[DINO])
    torch.manual_seed(1)
    model = instantiate(cfg.model)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(UserError, match=r"in\.pth: only a run"):
        load_weights(model, f"dino+{file}", strict=False)
    with pytest.raises(UserError, match="give --from dino"):
        load_weights(model, f"mmdet+{file}", strict=False, cfg_model=cfg.model)
    with pytest.raises(UserError, match=r"no file .*none\.pth"):
        local_path(f"dino+{tmp_path / 'none.pth'}")
    with pytest.raises(UserError, match="leaves .* unfilled: backbone.net.stem"):
        load_weights(model, f"dino+{file}", cfg_model=cfg.model)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    report = load_weights(model, f"dino+{file}", strict=False, cfg_model=cfg.model)
    assert {n.split(".")[2] for n in report.fresh} == {"stem", "tuner"}
    assert same(plain(model), plain(source))
    assert model.backbone.net.base_file == "in.pth"


def test_the_home_of_an_output_that_the_shell_left_as_it_is(tmp_path, monkeypatch):
    torch.save({"model": foreign.idea(plain(build(DINO)), layers=2)}, tmp_path / "in.pth")
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["--config-file", DINO, "--from", "dino", "~/in.pth", "~/out.safetensors", *SMALL[DINO]]
    assert tool(*words) == 0 and (tmp_path / "out.safetensors").is_file()
