"""The benchmark: the reference it measures against, what it counts, and the tool. Nothing here is timed."""

from __future__ import annotations

import copy
import json
import sys

import pytest
import torch
from helpers import tiny
from helpers.tools import line_of, load_tool
from torch import nn

from ivtuning.backbones.attention.relpos import RelPosAttention
from ivtuning.backbones.stems import PromptStem, SumStem, VisibleOnly
from ivtuning.backbones.trunk import Trunk
from ivtuning.benchmark import report
from ivtuning.benchmark.measures import flops
from ivtuning.benchmark.measures.flops import count, count_iv, energy, floor, frozen_trunk, rate
from ivtuning.benchmark.measures.memory import peak_bytes, saved_bytes
from ivtuning.benchmark.measures.timing import interleaved, ratio, summary
from ivtuning.benchmark.options import Options
from ivtuning.benchmark.parts import eval as evaluation
from ivtuning.benchmark.parts import growth, relpos, startup, step
from ivtuning.benchmark.report import ROWS
from ivtuning.benchmark.subjects import trunks as models
from ivtuning.benchmark.subjects.reference import plain
from ivtuning.errors import UserError
from ivtuning.tuning import Frozen, Full, IVTuning

NANO = ["--trunk", "vitdet_nano", "--depth", "2", "--repeats", "1", "--no-1024"]


@pytest.fixture(autouse=True)
def small_product(monkeypatch):
    """The one that tells a machine's rate takes seconds, and no test asks for that rate."""
    monkeypatch.setattr(flops, "SIDES", {"cpu": 64, "cuda": 64})


@pytest.fixture(params=["vitdet", "plain_vit", "swin"])
def fast(request) -> Trunk:
    """A trunk with IV-tuning in which every part has a say, and no draw."""
    torch.manual_seed(0)
    build = getattr(tiny, request.param)
    trunk = build(PromptStem(zero_init=False), IVTuning(hidden_dim=16, dropout=0.0, zero_init=False))
    for name, parameter in trunk.named_parameters():
        if "rel_pos" in name or "relative_position" in name:
            nn.init.normal_(parameter, std=0.3)
    return trunk.train()


def gradients(trunk: Trunk, x: torch.Tensor) -> dict[str, torch.Tensor]:
    # Drawn weights: the sum of squares hardly moves behind a norm.
    out = trunk(x)
    torch.manual_seed(1)
    sum((o * torch.randn_like(o)).sum() for o in out.values()).backward()
    return {name: p.grad for name, p in trunk.named_parameters() if p.requires_grad}


def test_reference_computes_the_same(fast):
    slow = plain(fast)
    x = torch.randn(2, 6, 48, 40)
    ours, theirs = fast(x), slow(x)
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    ours, theirs = gradients(fast, x), gradients(slow, x)
    assert ours.keys() == theirs.keys()
    assert any(name.startswith("tuner.blocks.0.prompt1") for name in ours)
    most = max(g.abs().max().item() for g in theirs.values())
    for name, expected in theirs.items():
        # Some are zero but for rounding, such as that of a bias before a batch norm.
        bound = 1e-5 * max(expected.abs().max().item(), 1e-2 * most)
        torch.testing.assert_close(ours[name], expected, rtol=0, atol=bound, msg=name)


def test_reference_is_plain_and_leaves_the_original_alone(fast):
    before = [type(m) for m in fast.modules()]
    slow = plain(fast)
    assert [type(m) for m in fast.modules()] == before
    assert [n for n, _ in slow.named_parameters()] == [n for n, _ in fast.named_parameters()]
    for trunk, backend in ((fast, "auto"), (slow, "plain")):
        assert trunk.attn_backend == trunk.tuner.backend == backend
        assert {adapters.backend for adapters in trunk.tuner.blocks} == {backend}
    # timm's own modules and ours.
    assert not any(getattr(b.attn, "backend", "plain") != "plain" for b in slow.blocks)
    assert not any(b.attn.fused_attn for b in slow.blocks if not hasattr(b.attn, "backend"))


def test_reference_of_a_trunk_without_adapters():
    trunk = tiny.vitdet(VisibleOnly(), Frozen())
    x = torch.randn(1, 6, 48, 48)
    torch.testing.assert_close(plain(trunk)(x)["last_feat"], trunk(x)["last_feat"], rtol=1e-5, atol=1e-5)


def test_explicit_attention_keeps_all_scores():
    fast = RelPosAttention(24, 2, use_rel_pos=True, input_size=(16, 16)).requires_grad_(False)
    x = torch.randn(1, 16, 16, 24, requires_grad=True)
    little = saved_bytes(fast, lambda: fast(x))
    slow = copy.deepcopy(fast)
    slow.backend = "plain"
    scores = 2 * 256 * 256 * 4
    assert little < scores < saved_bytes(slow, lambda: slow(x))


def test_saved_bytes_count_storages_once_and_no_parameters():
    frozen = nn.Linear(8, 16).requires_grad_(False)
    x = torch.randn(4, 8, requires_grad=True)
    assert saved_bytes(frozen, lambda: frozen(x)) == 0  # its weight alone
    hidden = 4 * 16 * 4
    assert saved_bytes(frozen, lambda: frozen(x).sin()) == hidden
    assert (
        saved_bytes(frozen, lambda: (lambda h: h.sin() + h.view(16, 4).cos().view(4, 16))(frozen(x)))
        == hidden
    )
    trained = nn.Linear(8, 16)
    assert saved_bytes(trained, lambda: trained(x).sin()) == hidden + x.nbytes
    with torch.no_grad():
        assert saved_bytes(trained, lambda: trained(x).sin()) == 0


def test_saved_bytes_see_checkpointing():
    from torch.utils.checkpoint import checkpoint

    net = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 8))
    x = torch.randn(4, 8, requires_grad=True)
    assert saved_bytes(net, lambda: net(x)) > 4 * 64 * 4
    assert saved_bytes(net, lambda: checkpoint(net, x, use_reentrant=False)) == x.nbytes


def test_peak_is_of_cuda_alone():
    ran = []
    peak = peak_bytes(lambda: ran.append(torch.zeros(1 << 20, device=Options().device)))
    assert (peak is None and not ran) if not torch.cuda.is_available() else peak >= 4 << 20


def test_runs_take_turns():
    calls = []
    times = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, "test")
    assert calls == ["a", "b"] * 4  # one round is not counted
    assert {name: len(found) for name, found in times.items()} == {"a": 3, "b": 3}


def test_ratios_are_formed_round_by_round():
    times = {"a": [1.0, 4.0, 30.0], "b": [2.0, 4.0, 10.0]}
    assert ratio(times, "a", "b") == (1.0, 0.5, 3.0)
    assert summary(times)["a"] == {"median": 4.0, "min": 1.0, "max": 30.0}


def test_floor_is_that_of_linear_layers_and_attention():
    """Forward f, input gradient f, weight gradient f: 2/3 without it, more where attention has none."""
    found = floor("vitdet_nano", (48, 48), 2)
    assert found["ratio"] == found["frozen"] / found["full"]
    assert 2 / 3 < found["ratio"] < 0.8
    assert floor("vitdet_nano", (96, 96), 2)["ratio"] > found["ratio"]


def test_floor_of_vitdet_b():
    assert floor("vitdet_b", (512, 512))["ratio"] == pytest.approx(0.698, abs=5e-4)


def test_flops_of_iv_tuning_are_those_of_its_modules():
    """Beside the frozen trunk's: two adapters a block with their weight gradients, and what the stem adds."""
    frozen = floor("vitdet_nano", (48, 48), 2)["frozen"]
    assert count_iv("vitdet_nano", (48, 48), 2) > frozen
    two, four, six = (count_iv("vitdet_nano", (48, 48), depth) for depth in (2, 4, 6))
    assert six - four == four - two > floor("vitdet_nano", (48, 48), 2)["frozen"] / 2
    trunk = models.build("vitdet_nano", PromptStem(), IVTuning(), 2)
    assert count(plain(trunk), (48, 48)) == two


def test_rate_is_that_of_the_best_product(monkeypatch):
    taken = {"product": [0.5, 0.25, 2.0]}
    monkeypatch.setattr(flops, "interleaved", lambda runs, *_: runs["product"]() is not None and taken)
    assert rate(torch.device("cpu"), torch.bfloat16) == 2 * 64**3 / 0.25


def test_gradient_runs_through_all_of_the_frozen_trunk():
    trunk = frozen_trunk("vitdet_nano", 4)
    energy(trunk(torch.randn(1, 6, 48, 48))).backward()
    trained = [(n, p) for n, p in trunk.named_parameters() if p.requires_grad]
    assert [n for n, _ in trained] == ["stem.shift"]
    assert trained[0][1].grad.abs().min() > 0


@pytest.mark.parametrize(
    ("name", "depth", "expected"),
    [
        ("vitdet_b", 6, {"depth": 6, "global_blocks": range(2, 6, 3)}),
        ("vit_l", 5, {"depth": 5, "out_indices": (4,)}),
        ("swin_l", 12, {"depths": (2, 2, 6, 2)}),
    ],
)
def test_shortened_trunks(name, depth, expected):
    assert models.shortened(name, depth) == expected


@pytest.mark.parametrize(
    ("name", "depth", "words"),
    [
        ("vitdet_b", 4, "a multiple of 3 up to 12"),
        ("vitdet_b", 15, "a multiple of 3 up to 12"),
        ("swin_l", 7, "an even number from 8 to 24"),
        ("vit_l", 25, "1 to 24"),
        ("vitdt_b", 3, "did you mean 'vitdet_b'"),
    ],
)
def test_depths_and_names_that_do_not_exist(name, depth, words):
    with pytest.raises(UserError, match=words):
        models.build(name, VisibleOnly(), Frozen(), depth)


def test_recompute_and_the_large_size_itself(monkeypatch):
    monkeypatch.setattr(step, "LARGE", (48, 48))
    found = step.measure(Options(trunk="vitdet_nano", depth=2, repeats=1))
    assert found.rows["step_over_reference_1024"] == found.rows["step_over_reference"]
    saved = found.raw["saved_bytes"]
    assert saved["iv_block"] < saved["iv_mlp"] < saved["iv"] < saved["reference"]
    assert saved["frozen"] < saved["full"]
    seconds = found.raw["step_seconds"]
    assert found.rows["step_frozen_over_full"].value == pytest.approx(
        seconds["frozen"]["median"] / seconds["full"]["median"]
    )
    for key in ("iv", "full"):
        ideal = found.raw["flops"][key] / (found.facts["rate_tflops"] * 1e12)
        assert found.rows[f"utilization_{key}"].value == pytest.approx(ideal / seconds[key]["median"])
    for mode in ("mlp", "block"):
        assert found.rows[f"saved_over_full_{mode}"].value == saved[f"iv_{mode}"] / saved["full"]
        assert found.rows[f"step_over_full_{mode}"].value > 0


def test_large_size_has_its_own_row(monkeypatch):
    monkeypatch.setattr(step, "LARGE", (64, 64))
    found = step.measure(Options(trunk="vitdet_nano", depth=2, size=(48, 64), repeats=1))
    row = found.rows["step_over_reference_1024"]
    seconds = found.raw["step_seconds_1024"]
    assert row.value == seconds["iv"]["median"] / seconds["reference"]["median"]


def test_absolute_figures_stand_below_the_ratios():
    times = {"a": [0.25, 0.5, 1.0]}
    listing = report.absolute(["a", "b"], times, 4, "ms", {"saved GB": {"a": 10**9, "b": 2 * 10**9}})
    assert listing.head == ["run", "ms", "images/s", "saved GB"]
    assert listing.lines == [["a", "500.0", "8.0", "1.00"], ["b", "out of memory", "", "2.00"]]
    found = report.Found("so", listings=[listing])
    where = {"device": "d", "threads": 1, "torch": "t", "repeats": 3}
    lines = report.table("part", found, where).splitlines()
    assert lines[4].split() == ["|", "run", "|", "ms", "|", "images/s", "|", "saved", "GB", "|"]  # no rows
    found.rows["infer_over_trunk"] = report.Row(1.0)
    assert [line for line in report.table("part", found, where).splitlines() if not line][2:] == [""]


def test_profile_of_both_methods(capsys):
    load_tool("benchmark").main(["profile", *NANO[:-1], "--json"])
    out = capsys.readouterr().out
    found = json.loads(out.splitlines()[-1])["raw"]["profile"]
    for method in ("IV-tuning", "full fine-tuning"):
        rows = found[method]["kernels"]
        assert [row["ms"] for row in rows] == sorted((row["ms"] for row in rows), reverse=True)
        assert found[method]["calls"] == sum(row["calls"] for row in rows)
        shown = out.split(f"\n{method}\n\n")[1].split("\n\n")[0].splitlines()
        assert len(shown) == 12 and shown[2].startswith(f"| {rows[0]['name']} ")
        # Once a step, and the optimizer's own mark, which spans it, is no operator.
        names = {row["name"]: row["calls"] for row in rows}
        assert names["aten::_fused_adamw_"] == 1
        assert not any(name.startswith("Optimizer.step") for name in names)
    assert "operators a step" in out


def test_both_evaluations_agree():
    found = evaluation.measure(Options(images=6, repeats=1))
    assert found.facts["coco_eval_difference"] < 1e-12
    truth, detections = evaluation.synthetic(6)
    assert (len(truth), len(detections)) == (6 * evaluation.OBJECTS, 6 * evaluation.DETECTIONS)
    # They would also agree on nothing at all.
    boxes = {tuple(d["bbox"][2:]) for d in detections}
    assert all(tuple(t["bbox"][2:]) in boxes for t in truth)


def test_relpos_in_reduced_precision():
    found = relpos.measure(Options(tokens=6, repeats=1, dtype="bf16"))
    assert found.rows["relpos_saved_ratio"].value > 0
    assert found.facts["relpos_time_ratio"] > 0


def test_tool_measures_all(monkeypatch, capsys):
    monkeypatch.setattr(startup, "_run", lambda *arguments: lambda: None)  # each start takes seconds
    load_tool("benchmark").main(["all", *NANO, "--tokens", "6", "--images", "4", "--pairs", "2", "--json"])
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    assert list(found)[: len(ROWS)] == list(ROWS)
    asked = [key for key in ROWS if not key.startswith(("growth_", "scale_", "model_"))]
    assert all(isinstance(found[key], float) or found["notes"][key] == "left out" for key in asked)
    assert found["step_over_reference_1024"] is None
    assert found["floor"] == found["raw"]["step"]["flops"]["ratio"]
    assert found["raw"]["data"]["images_per_second"]["loader"] > 0
    assert found["raw"]["adapters"]["bytes"]["adapter"] < found["raw"]["adapters"]["bytes"]["checkpoint"]
    assert "cut to 2 blocks, 48 x 48 px, batch 1, fp32" in found["conditions"]["step"]
    assert found["machine"]["threads"] == torch.get_num_threads()
    for key in asked:
        assert sum(line.startswith(f"| {key} ") for line in lines) == 1
    low, high = found["spread"]["infer_over_trunk"]
    assert low <= found["infer_over_trunk"] <= high


def test_exponents_are_slopes():
    assert growth.exponent([1, 2, 4, 8], [3, 12, 48, 192]) == pytest.approx(2)
    assert growth.exponent([5, 50], [7, 7]) == pytest.approx(0)


@pytest.mark.parametrize(
    ("name", "most", "expected"),
    [
        ("vitdet_b", None, [3, 6, 9, 12]),
        ("vitdet_b", 6, [3, 6]),
        ("vit_l", None, [1, 9, 16, 24]),
        ("swin_l", None, [8, 14, 18, 24]),
        ("vitdet_nano", 2, [2]),
    ],
)
def test_depths_of_a_trunk(name, most, expected):
    assert models.depths(name, most) == expected


def test_growth_in_counted_bytes_and_its_picture(tmp_path, capsys):
    argv = ["growth", "--trunk", "vitdet_nano", "--repeats", "1", "--plot", str(tmp_path / "g.png"), "--json"]
    load_tool("benchmark").main(argv)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    depth = found["raw"]["growth"]["depth"]
    assert depth["axis"] == [2, 4, 6, 8] and depth["bytes"].keys() == depth["seconds"].keys()
    for method, kept in depth["bytes"].items():
        # Every block keeps the same, whatever the others do; the stem's share is beside it.
        assert kept[3] - kept[2] == kept[2] - kept[1] == kept[1] - kept[0] > 0, method
    for key in ("step_pixels", "memory_pixels", "step_depth", "memory_depth"):
        assert isinstance(found[f"growth_{key}"], float)
    assert 0.5 < found["growth_memory_depth"] < 1  # the stem does not grow
    assert found["raw"]["growth"]["pixels"]["axis"] == [144, 576, 1296, 2304, 5184]
    assert (tmp_path / "g.png").read_bytes().startswith(b"\x89PNG")


def test_growth_of_one_depth_alone():
    found = growth.measure(Options(trunk="vitdet_nano", depth=2, repeats=1))
    assert found.rows["growth_step_depth"].note == "the trunk has one depth only"


def test_scale_counts_the_bytes_of_what_trains(capsys):
    argv = ["scale", "--trunk", "vitdet_nano", "--depth", "2", "--repeats", "1", "--json"]
    load_tool("benchmark").main(argv)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    runs = found["raw"]["scale"]["runs"]
    assert [(r["processes"], r["threads"]) for r in runs][0::2] == [(1, 1), (2, 1)]
    assert all(r["samples_per_second"]["full"] > 0 for r in runs)
    for kind, stem, tuner in (("iv", PromptStem(), IVTuning()), ("full", SumStem(), Full())):
        trunk = models.build("vitdet_nano", stem, tuner, 2)
        assert runs[-1]["bytes"][kind] == sum(p.nbytes for p in trunk.parameters() if p.requires_grad)
    assert found["scale_bytes_ratio"] == runs[-1]["bytes"]["iv"] / runs[-1]["bytes"]["full"]
    assert found["scale_speedup"] > 0 and found["scale_reduce_share"] < 1


def test_one_part_leaves_the_others_null(capsys):
    load_tool("benchmark").main(["infer", *NANO, "--size", "32", "48", "--dtype", "bf16", "--json"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [key for key in ROWS if found[key] is not None] == ["infer_over_trunk"]
    assert found["notes"]["step_over_full"] == "not asked for"
    assert "32 x 48 px, batch 1, bf16" in found["conditions"]["infer"]


def test_loader_of_a_registered_set(pairs, capsys):
    argv = ["data", "--dataset", "synthetic_train", "--pairs", "4", "--batch", "2", "--repeats", "1"]
    load_tool("benchmark").main(argv)
    assert "synthetic_train, 4 of them a round, batch 2, 0 workers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["step", "--trunk", "swin_x"], "no trunk is called 'swin_x'"),
        (["infer", "--trunk", "vitdet_b", "--depth", "5"], "--depth 5: give a multiple of 3"),
        (["infer", "--size", "1", "2", "3"], "--size 1 2 3: give one side, or height and width"),
        (["data", "--workers", "-1"], "--workers -1: give 0 or more"),
        (["scale", "--processes", "1"], "--processes 1: give 2 or more"),
        (["model"], "model needs --config-file FILE"),
        (["model", "--config-file", "configs/synthetic/dino.py"], "configs/synthetic/dino_ivtuning.py"),
        (["model", "--config-file", "x.py", "--dtype", "bf16"], "--dtype does not go with model"),
        (["model", "--config-file", "x.py", "--depth", "3"], "--depth does not go with model"),
        (["infer", "--config-file", "x.py"], "'--config-file x.py' goes with the part model, not with infer"),
        (["step", "--batch", "2", "train.seed=1"], "'train.seed=1' goes with the part model, not with step"),
        (["data", "--dataset", "synthetic_trian"], "synthetic_train"),
        (["data", "--dataset", "synthetic_train", "--batch", "99"], "give a smaller --batch"),
    ],
)
def test_bad_input(pairs, capsys, argv, words):
    assert words in line_of(capsys, argv, "benchmark")


def test_help_needs_no_torch(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # its import would fail
    with pytest.raises(SystemExit) as exit:
        load_tool("benchmark").main(["--help"])
    assert exit.value.code == 0
    assert "tools/benchmark.py step --trunk vitdet_b" in capsys.readouterr().out


def test_repeats_of_zero(capsys):
    with pytest.raises(SystemExit) as exit:
        load_tool("benchmark").main(["step", "--repeats", "0"])
    assert exit.value.code == 2
    assert "give a whole number from 1" in capsys.readouterr().err
