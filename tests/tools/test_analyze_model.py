"""Comparison of all tuners on one trunk; its integers are those of the methods' own code."""

from __future__ import annotations

import json
import sys

import pytest
import timm
import torch
from fvcore.nn import FlopCountAnalysis
from helpers.tiny import swin, vitdet
from helpers.tools import ROOT, load_tool

from ivtuning.backbones.presets import TRUNKS, VIT_14_SIZES, VIT_SIZES
from ivtuning.checkpoint.adapter import group_sizes, save_adapter
from ivtuning.comparison import costs
from ivtuning.errors import UserError, run_tool
from ivtuning.tuning import TUNERS, Frozen, IVTuning, Mona
from ivtuning.tuning.stems import PromptStem, VisibleOnly

# Trainable parameters counted in the Mona paper's released modules, all four outputs; then the base.
PUBLISHED = {
    "swin_b": {
        "BitFit": 201_656,
        "NormTuning": 59_392,
        "Partial": 12_601_632,
        "Adapter": 3_107_328,
        "LoRA": 3_080_192,
        "AdaptFormer": 1_553_664,
        "Mona": 3_667_456,
        "Full": 86_745_016,
        "Frozen": 0,
    },
    "swin_l": {
        "BitFit": 302_484,
        "NormTuning": 89_088,
        "Partial": 28_339_632,
        "Adapter": 4_659_456,
        "LoRA": 4_620_288,
        "AdaptFormer": 2_329_728,
        "Mona": 5_267_712,
        "Full": 194_998_164,
        "Frozen": 0,
    },
}
RATIOS = {
    "swin_b": {"Mona": (0.04228, 0.04056), "Adapter": (0.03582, 0.03458)},
    "swin_l": {"Mona": (0.02701, 0.0263)},
}


@pytest.fixture(scope="module")
def main():
    module = load_tool("analyze_model")
    return module.main


@pytest.fixture(scope="module")
def swin_l():
    return costs.compare_tuners("swin_l", (512, 512))


@pytest.fixture
def few(monkeypatch):
    """Only these are counted, to be quick."""
    monkeypatch.setattr(costs, "TUNERS", {name: TUNERS[name] for name in ("IVTuning", "Mona", "Full")})


@pytest.mark.slow
def test_published_counts_of_swin_l(swin_l):
    check("swin_l", swin_l)
    assert list(swin_l["tuners"]) == list(TUNERS)


@pytest.mark.slow
def test_published_counts_of_swin_b():
    counts = costs.compare_tuners("swin_b", (64, 64))
    check("swin_b", counts)


def check(name, counts):
    assert (counts["trunk"], counts["base"]) == (name, PUBLISHED[name]["Full"])
    assert {k: counts["tuners"][k]["trainable"] for k in PUBLISHED[name]} == PUBLISHED[name]
    for tuner, ratios in RATIOS[name].items():
        row = counts["tuners"][tuner]
        assert (round(row["ratio_of_base"], 5), round(row["ratio_of_total"], 5)) == ratios


@pytest.mark.slow
def test_published_compute_overhead_of_swin_l(swin_l):
    assert round(swin_l["base_macs"] / 1e9, 1) == 193.9 and swin_l["size"] == [512, 512]
    # Mona is a little under the released code's 3.8: its three depthwise convolutions run as one.
    for tuner, percent in {"Mona": 3.8, "LoRA": 3.8, "Adapter": 3.2, "AdaptFormer": 1.6}.items():
        extra = 100 * swin_l["tuners"][tuner]["extra_macs"] / swin_l["base_macs"]
        assert abs(extra - percent) < 0.2, tuner
    for tuner in ("BitFit", "NormTuning", "Partial", "Full", "Frozen"):
        assert swin_l["tuners"][tuner]["extra_macs"] == 0


@pytest.mark.slow
def test_iv_tuning_counts_its_stem_too(few):
    counts = costs.compare_tuners("vitdet_b")
    assert counts["size"] == [480, 640] and counts["base"] == 85_889_024
    assert counts["tuners"]["IVTuning"]["trainable"] == 3_695_236
    assert counts["tuners"]["IVTuning"]["adapter_mb"] == pytest.approx(14.8, abs=0.05)
    assert counts["tuners"]["Full"]["ratio_of_total"] == 1


@pytest.mark.slow
def test_adapter_megabytes_are_those_of_the_file(tmp_path, monkeypatch, few):
    monkeypatch.setitem(TRUNKS, "tiny", swin)
    counts = costs.compare_tuners("tiny", (32, 48))["tuners"]
    for stem, tuner in ((PromptStem(), IVTuning()), (VisibleOnly(), Mona())):
        file = tmp_path / f"{type(tuner).__name__}.safetensors"
        save_adapter(swin(stem, tuner), file, groups=["backbone"])
        assert counts[type(tuner).__name__]["adapter_mb"] * 1e6 == pytest.approx(
            group_sizes(file)["backbone"]
        )


@pytest.mark.parametrize("tuner", [Frozen, Mona])
def test_meta_counts_what_fvcore_counts_on_real_tensors(tuner):
    trunk = swin(VisibleOnly(), tuner()).eval()
    # So that fvcore too sees attention's two products; norms are no products.
    trunk.set_attn_backend("plain")
    ours = costs.count_macs(trunk, (32, 48))
    analysis = FlopCountAnalysis(trunk, torch.zeros(1, 6, 32, 48)).unsupported_ops_warnings(False)
    theirs = analysis.uncalled_modules_warnings(False).by_operator()
    assert ours == sum(theirs[op] for op in ("conv", "linear", "matmul"))
    with torch.device("meta"):
        assert costs.count_macs(swin(VisibleOnly(), tuner()).eval(), (32, 48)) == ours


# Of a map of N tokens, in blocks of width C, by the equations of docs/method.md.
N, C = 6 * 5, 24
WINDOWS = 6 * 6  # the same map, padded to windows of 3
BY_HAND = {
    "Adapter": 4 * 2 * (2 * C * 16) * N,
    "AdaptFormer": 4 * (2 * C * 16) * N,
    # Mona's three depthwise convolutions run as one of 7x7.
    "Mona": 4 * 2 * (2 * C * 16 + 49 * 16 + 16**2) * N,
    # Query and value projections, in two blocks of windows and two global ones.
    "LoRA": 2 * (2 * C * 16) * 2 * (N + WINDOWS),
    # Hybrid and prompt adapters; infrared's embedding of 8x8 patches and the prompt generator.
    "IVTuning": (
        4 * 2 * (2 * C * 16 + 9 * 4 + 2 * 16**2 + 2 * C * 8) * N
        + (3 * 8**2 * C + 3 * C * 8 + 9 * 2 + 2 * 8**2) * N
    ),
}


@pytest.mark.parametrize("tuner", BY_HAND)
@pytest.mark.parametrize("training", [False, True])
def test_macs_are_those_counted_by_hand(tuner, training):
    width = {"rank": 16} if tuner == "LoRA" else {"hidden_dim": 16}
    stem = PromptStem() if tuner == "IVTuning" else VisibleOnly()
    tuned = vitdet(stem, TUNERS[tuner](**width)).train(training)
    frozen = vitdet(VisibleOnly(), Frozen()).train(training)
    with torch.no_grad():
        tuned(torch.randn(1, 6, 48, 40))  # evaluation keeps constants from here on
    assert costs.count_macs(tuned, (48, 40)) - costs.count_macs(frozen, (48, 40)) == BY_HAND[tuner]


@pytest.mark.slow
def test_the_readme_has_the_tools_table(main, capsys, few):
    main(["--trunk", "swin_l", "--all-tuners"])
    table = [line.split() for line in capsys.readouterr().out.splitlines() if not line.startswith("---")]
    assert "9.67" in table[1]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [line for line in table if line not in map(str.split, readme.splitlines())] == []


@pytest.mark.slow
def test_vision_transformers_come_in_their_published_sizes():
    with torch.device("meta"):
        trunks = {n: TRUNKS[n](VisibleOnly(), Frozen()) for n in TRUNKS if n.startswith("vit")}
    lettered = {f"{kind}_{size}" for kind in ("vit", "vitdet") for size in VIT_SIZES}
    assert set(trunks) == lettered | VIT_14_SIZES.keys()
    whole = {
        name: [i for i, block in enumerate(trunk.blocks) if not block.window_size]
        for name, trunk in trunks.items()
        if name.startswith("vitdet")
    }
    assert whole["vitdet_t"] == whole["vitdet_b"] == [2, 5, 8, 11]
    assert whole["vitdet_l"] == [5, 11, 17, 23] and whole["vitdet_h"] == [7, 15, 23, 31]
    # 12 blocks of 12 C^2 + 13 C, a 16 px embedding of 769 C and a cls token with 32 x 32 + 1 positions.
    width = 192
    expected = 12 * (12 * width**2 + 13 * width) + 769 * width + 1026 * width
    assert sum(p.numel() for p in trunks["vit_t"].parameters()) == expected


@pytest.mark.parametrize(
    ("name", "theirs", "count"),
    [
        ("vit_h14", "vit_huge_patch14_224.mae", 632_186_880),
        ("vit_g", "vit_giant_patch14_224", 1_012_766_720),
    ],
)
def test_the_largest_ones_are_timms_without_the_last_norm(name, theirs, count):
    with torch.device("meta"):
        ours = dict(TRUNKS[name](VisibleOnly(), Frozen()).named_parameters())
        options = dict(num_classes=0, img_size=518, global_pool="token", fc_norm=False)
        theirs = dict(timm.create_model(theirs, pretrained=False, **options).named_parameters())
    assert sum(p.numel() for p in ours.values()) == count
    del theirs["norm.weight"], theirs["norm.bias"]
    assert {n: p.shape for n, p in ours.items()} == {n: p.shape for n, p in theirs.items()}


@pytest.mark.slow
def test_command_line(main, capsys, few):
    main(["--trunk", "vit_t", "--all-tuners", "--size", "64", "96", "--json"])
    counts = json.loads(capsys.readouterr().out)
    assert counts["size"] == [64, 96] and set(counts["tuners"]) == {"IVTuning", "Mona", "Full"}
    assert set(counts["tuners"]["Mona"]) == {
        "trainable",
        "ratio_of_base",
        "ratio_of_total",
        "extra_macs",
        "adapter_mb",
    }
    main(["--trunk", "vit_t", "--all-tuners", "--size", "64", "96"])
    text = capsys.readouterr().out
    mona = counts["tuners"]["Mona"]
    for part in (f"{mona['trainable']:,}", f"{mona['ratio_of_base']:.2%}", "64 x 96", "extra GMACs"):
        assert part in text


def test_a_config_is_still_counted(main, capsys):
    config = "configs/synthetic/ivtuning.py"
    main(["--config-file", config, "model.backbone.net.tuner=Frozen", "--json"])
    counts = json.loads(capsys.readouterr().out)
    assert counts["groups"]["tuner"]["total"] == 0 and counts["backbone_trainable"] > 0  # the stem


def test_help_names_every_trunk(main, capsys):
    with pytest.raises(SystemExit):
        run_tool(main, ["--help"])
    words = capsys.readouterr().out.replace(",", " ").split()
    assert set(TRUNKS) <= set(words)


def test_only_help_needs_the_trunks(main, monkeypatch):
    monkeypatch.setitem(sys.modules, "ivtuning.backbones.presets", None)  # its import would fail
    with pytest.raises(UserError, match="give either"):
        main([])


@pytest.mark.parametrize(
    "line, message",
    [
        ("", "give either --config-file FILE or --trunk"),
        ("--config-file a.py --trunk swin_b --all-tuners", "give either"),
        ("--trunk swin_b", "belong together"),
        ("--config-file configs/quick/ivtuning.py --size 4 4", "belong together"),
        ("--trunk swin_b --all-tuners train.max_iter=1", "'train.max_iter=1' changes a config"),
        ("--trunk swin_x --all-tuners", "no trunk is called 'swin_x'; did you mean 'swin_"),
        ("--trunk swin_t --all-tuners --size 0 4", "size 0 x 4: give a height"),
        ("--trunk swin_t --all-tuners --size 99999999999 4", "at most 65,536"),
    ],
)
def test_wrong_command_lines_are_reported(main, line, message):
    with pytest.raises(UserError, match=message):
        main(line.split())
