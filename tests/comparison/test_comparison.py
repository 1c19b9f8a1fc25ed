"""The comparison: runs of two steps, what is run again, failures, chosen rates, sizes, and its tables."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest
import torch
from helpers.runs import TINY
from helpers.tools import line_of, load_tool
from scipy import stats

from ivtuning.comparison import ROWS, Options, compare, markdown, runs, summary
from ivtuning.comparison.plan import Plan
from ivtuning.config import build, load_config
from ivtuning.engine.trainer import NonFiniteLoss
from ivtuning.errors import UserError
from ivtuning.methods import METHODS
from ivtuning.tuning import TUNERS

CONFIG = "configs/synthetic/ivtuning.py"


@pytest.fixture
def tiny(pairs, tmp_path) -> list[str]:
    """Overrides of a tiny detector that starts from a trunk file."""
    torch.manual_seed(0)
    model = runs.run.build_model(load_config(CONFIG, TINY))
    state = {name: p.data for name, p in model.backbone.net.named_base_parameters()}
    torch.save({"model": state}, tmp_path / "trunk.pth")
    return [*TINY[:-1], f"train.init_checkpoint={tmp_path / 'trunk.pth'}", "train.max_iter=2"]


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """Labels of the runs that were trained; each "trains" to an AP that tells row, seed, size and rate."""
    labels = []

    def work(job):
        labels.append(job.label)
        ap = 3.0 * list(ROWS).index(job.row) if job.row in ROWS else 50.0
        ap += job.seed**2 + (job.size or 0) / 10 - abs((job.factor or 1) - 3)
        lost = ("none", "visible", "infrared") if job.missing else ("none",)
        figures = {name: {"bbox/AP": ap - i, "bbox/AP50": ap + 5} for i, name in enumerate(lost)}
        facts = {key: getattr(job, key) for key in ("row", "seed", "size", "factor", "rate", "identity")}
        facts |= {"command": job.command, "processes": job.processes, "figures": figures}
        facts |= dict.fromkeys(summary.SAME, 1) | {"seconds_per_step": 0.5 + job.seed, "device": "cpu"}
        facts["iterations"] = load_config(job.config, job.overrides).train.max_iter
        with open(f"{job.folder}/result.json", "w") as f:
            json.dump(facts, f)

    monkeypatch.setattr(runs, "work", work)
    return labels


def call(output, overrides, **options) -> dict:
    return compare(CONFIG, output, overrides, Options(**{"processes": 1, **options}))


@pytest.mark.slow
def test_two_rows_end_to_end(tiny, tmp_path, capsys):
    """Search, sizes, a missing image; the model that is left, and the printed command, give the figures."""
    output = tmp_path / "out"
    options = dict(sizes=[6], search=[1, 3], search_size=4, hold_out=0.4, missing=True, seeds=1)
    results = call(output, tiny, only=["infrared", "Mona"], against="infrared", **options)
    assert json.loads((output / "results.json").read_text()) == json.loads(json.dumps(results))
    assert not results["failed"]
    rows = {row["name"]: row for row in results["rows"]}
    assert list(rows) == ["infrared only", "Mona", "Mona, no infrared", "Mona, no visible"]
    assert rows["infrared only"]["backbone_trainable"] == rows["infrared only"]["adapter_mb"] == 0
    mona = rows["Mona"]
    assert mona["ratio_of_base"] == mona["backbone_trainable"] / mona["backbone_base"] > 0
    assert mona["adapter_mb"] == pytest.approx(mona["backbone_trainable"] * 4 / 1e6)
    assert {"bbox/AP", "bbox/AP50", "bbox/AP-both"} <= mona["figures"].keys()
    assert len(results["search"]["Mona"]["figures"]) == 2
    conditions = results["conditions"]
    assert conditions["pairs"] == {"train": 12, "test": 4} and conditions["iterations"] == 2
    assert conditions["search_pairs"] == {"train": 4, "val": 5} and conditions["width"] == 16
    parts = {
        name: {image["id"] for image in json.loads((output / f"data/{name}.json").read_text())["images"]}
        for name in ("search_train", "search_val", "train_6_seed0")
    }
    assert {name: len(ids) for name, ids in parts.items()} == {
        "search_train": 4,
        "search_val": 5,
        "train_6_seed0": 6,
    }
    assert not parts["search_train"] & parts["search_val"]
    assert list(output.glob("score_by_*.png"))

    folder = output / "Mona" / "6" / "seed0"
    assert {f.name for f in folder.iterdir()} >= {"result.json", "adapter.safetensors", "log.txt"}
    assert not list(output.glob("*/*/*/*.pth"))
    argv = shlex.split(mona["command"])[3:]
    figures = json.loads((folder / "result.json").read_text())["figures"]["none"]
    cfg = load_config(argv[1], argv[2:])
    again = runs.run.evaluate_checkpoint(cfg, cfg.train.init_checkpoint, folder / "adapter.safetensors")
    assert {f"bbox/{k}": v for k, v in again["bbox"].items() if f"bbox/{k}" in figures} == figures
    load_tool("train_net").main(argv)
    again = json.loads((output / "Mona/6/seed0_again/results.json").read_text())["results"]["bbox"]
    assert {f"bbox/{k}": v for k, v in again.items() if v is not None} == figures


@pytest.mark.slow
def test_processes_of_their_own_give_the_same_results_and_the_same_failures(tiny, tmp_path):
    broken = [*tiny, "model.backbone.net.tuner.norm=XN"]
    here, apart = (
        call(tmp_path / str(n), broken, seeds=1, only=["BitFit", "IVTuning"], processes=n) for n in (1, 2)
    )
    for results in here, apart:
        assert [row["name"] for row in results["rows"]] == ["BitFit"]
        assert results["failed"]["IVTuning, seed 0"].startswith("tuner.norm='XN': give BN, SyncBN or GN")
    assert here["rows"][0]["figures"] == apart["rows"][0]["figures"]
    assert apart["rows"][0]["processes"] == [2]


def test_a_killed_process_is_reported(tiny, tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho 50 steps done\nkill -9 $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(runs.sys, "executable", str(script))
    results = call(tmp_path / "out", tiny, seeds=1, only=["Full"], processes=2)
    log = tmp_path / "out" / "Full" / "all" / "seed0" / "log.txt"
    assert results["failed"] == {"Full, seed 0": f"ended by signal 9; see {log}"}


def test_what_ran_is_skipped_and_what_is_new_is_added(tiny, tmp_path, trained):
    call(tmp_path, tiny, only=["Full"], seeds=2)
    assert trained == ["Full, seed 0", "Full, seed 1"]
    results = call(tmp_path, tiny, only=["LoRA"], seeds=1, variants=["GN: model.backbone.net.tuner.norm=GN"])
    assert trained[2:] == ["LoRA, seed 0", "GN, seed 0"]
    # All that has finished is in the table, variants of earlier calls too.
    again = call(tmp_path, tiny, only=["LoRA"], seeds=1)
    assert len(trained) == 4 and again["rows"] == results["rows"]
    assert [row["name"] for row in again["rows"]] == ["LoRA", "Full", "GN"]
    (tmp_path / "LoRA" / "all" / "seed0" / "result.json").write_text("{")
    call(tmp_path, tiny, only=["LoRA"], seeds=1)
    assert trained[4:] == ["LoRA, seed 0"]
    call(tmp_path, tiny, only=["LoRA"], seeds=1, missing=True)
    call(tmp_path, tiny, only=["LoRA"], seeds=1)
    assert trained[5:] == ["LoRA, seed 0"]


def test_what_a_later_call_asks_for_hides_no_earlier_run(tiny, tmp_path, trained):
    call(tmp_path, tiny, only=["Full", "LoRA"], seeds=2)
    rows = call(tmp_path, tiny, only=["LoRA"], seeds=1, missing=True)["rows"]
    named = {row["name"]: row["seeds"] for row in rows}
    assert named == {"LoRA": [0, 1], "Full": [0, 1], "LoRA, no infrared": [0], "LoRA, no visible": [0]}
    call(tmp_path, tiny, only=["LoRA"], seeds=1, sizes=[4])
    results = call(tmp_path, tiny, only=["LoRA", "Mona"], seeds=1)
    sized = [(row["key"], row["pairs"]) for row in results["rows"] if row["missing"] is None]
    assert sized == [("Mona", 4), ("LoRA", 4), ("Mona", None), ("LoRA", None), ("Full", None)]
    assert "### All training pairs" in markdown(results)


def test_more_factors_may_lie_on_one_side(tiny, tmp_path, trained):
    with pytest.raises(UserError, match="--search 3,10: give factors .* on both sides of 1"):
        call(tmp_path, tiny, only=["LoRA"], seeds=1, search=[3, 10])
    call(tmp_path, tiny, only=["LoRA"], seeds=1, search=[0.3, 1])
    trained.clear()
    assert call(tmp_path, tiny, only=["LoRA"], seeds=1, search=[3, 10])["search"]["LoRA"]["factor"] == 3
    assert trained == ["LoRA, search at 0.003", "LoRA, search at 0.01", "LoRA, seed 0"]


def test_variants_have_names_and_schedules_of_their_own(tiny, tmp_path, trained):
    with pytest.raises(UserError, match="two have the same name"):
        call(tmp_path, tiny, variants=["a b: train.max_iter=3", "a_b: train.max_iter=4"])
    (row,) = call(tmp_path, tiny, variants=["long, twice: train.max_iter=3"], seeds=1)["rows"]
    assert row["seconds"] == 1.5


def test_another_comparison_is_not_mixed_with_that_of_the_folder(tiny, tmp_path, trained):
    call(tmp_path, tiny, only=["Full"], seeds=1)
    with pytest.raises(UserError, match="holds a comparison with overrides"):
        call(tmp_path, [*tiny, "optimizer.lr=0.002"], only=["Full"])
    torch.save({"model": {}}, tmp_path / "trunk.pth")
    with pytest.raises(UserError, match="holds a comparison with trunk_sha256"):
        call(tmp_path, tiny, only=["Full"])
    (tmp_path / "results.json").write_text('{"rows": []}')
    with pytest.raises(UserError, match="is no result of a comparison"):
        call(tmp_path, tiny, only=["Full"])


def test_the_rate_is_chosen_for_each_row_and_used_for_all_sizes_and_seeds(tiny, tmp_path, trained):
    options = dict(only=["LoRA", "Full"], search=[0.1, 1, 3, 10], sizes=[4, 8], seeds=2, search_size=4)
    results = call(tmp_path, [*tiny, "optimizer.params.trunk_lr_factor=0.1"], **options)
    assert trained[:4] == [f"LoRA, search at {rate}" for rate in ("0.0001", "0.001", "0.003", "0.01")]
    assert trained[4:8] == [f"Full, search at {rate}" for rate in ("1e-05", "0.0001", "0.0003", "0.001")]
    assert len(trained) == 8 + 2 * 2 * 2
    found = results["search"]
    assert {key: f["chosen"] for key, f in found.items()} == {"LoRA": 0.003, "Full": 0.0003}
    assert not found["LoRA"]["edge"]
    commands = {(row["key"], row["pairs"]): row["command"] for row in results["rows"]}
    assert "optimizer.lr=0.003" in commands["LoRA", 4] and "train_4_seed0.json" in commands["LoRA", 4]
    full = load_config(CONFIG, shlex.split(commands["Full", 8])[5:])
    assert full.optimizer.lr == 1e-3
    assert full.optimizer.params.trunk_lr_factor == full.optimizer.params.added_lr_factor == 0.3
    text = markdown(results)
    assert "### 4 training pairs" in text and "**" in text
    trained.clear()
    call(tmp_path, [*tiny, "optimizer.params.trunk_lr_factor=0.1"], **options | {"search": [1, 30]})
    assert trained == ["LoRA, search at 0.03", "Full, search at 0.003"]


def test_a_failing_run_is_reported_and_the_others_go_on(tiny, tmp_path, trained, monkeypatch, capsys):
    work = runs.work

    def fail(job):
        if job.label == "Mona, seed 0":
            raise UserError("the loss is not finite")
        if job.label == "LoRA, seed 0":
            raise RuntimeError("two\nlines")
        work(job)

    monkeypatch.setattr(runs, "work", fail)
    argv = [*tiny, "--output", str(tmp_path), "--seeds", "2", "--only", "Mona,LoRA,Full", "--processes=1"]
    assert load_tool("compare").main(argv) == 1
    assert trained == ["Full, seed 0", "Mona, seed 1", "LoRA, seed 1", "Full, seed 1"]
    failed = json.loads((tmp_path / "results.json").read_text())["failed"]
    log = tmp_path / "Mona" / "all" / "seed0" / "log.txt"
    assert failed["Mona, seed 0"] == f"the loss is not finite; see {log}"
    assert failed["LoRA, seed 0"].startswith("RuntimeError: two; see ")
    assert "Traceback" in log.read_text()
    text = capsys.readouterr()
    assert "| Mona (seeds 1) " in text.out and "Failed: Mona, seed 0: the loss is not finite" in text.out
    assert f"error: Mona, seed 0: the loss is not finite; see {log}" in text.err


@pytest.fixture
def rates(monkeypatch) -> list[str]:
    """Labels of the runs that were trained: those at 0.01 diverge, and the first search at 0.001 fails."""
    labels = []

    def train(cfg, progress, replace):
        labels.append(progress)
        if cfg.optimizer.lr >= 0.01:
            raise NonFiniteLoss("the loss is not finite at iteration 3")
        if progress.endswith("at 0.001") and labels.count(progress) == 1:
            raise RuntimeError("odd")
        return {"bbox": {"AP": 40.0}}

    monkeypatch.setattr(runs.run, "train", train)
    monkeypatch.setattr(runs, "_keep_model", lambda *args: dict.fromkeys(summary.SAME, 1))
    return labels


def test_a_rate_that_diverged_is_remembered(tiny, tmp_path, rates, capsys):
    options = dict(only=["LoRA"], seeds=1, search=[1, 3, 10], search_size=4)
    results = call(tmp_path, tiny, **options)
    searched = [f"LoRA, search at {rate}" for rate in ("0.001", "0.003", "0.01")]
    assert rates == [*searched, "LoRA, seed 0"] and list(results["failed"]) == [searched[0]]
    found = results["search"]["LoRA"]
    assert found["rates"] == [0.003, 0.01] and found["figures"] == [40.0, None] and found["chosen"] == 0.003
    assert found["diverged"] == [None, "the loss is not finite at iteration 3"]
    assert "| **40.0 at 0.003** | diverged at 0.01 |" in " ".join(markdown(results).split())
    assert f"{searched[2]} diverged: the loss is not finite" in capsys.readouterr().err
    # What failed for another reason is run again; the lower one of equal rates is chosen.
    rates[:] = searched[:1]
    results = call(tmp_path, tiny, **options)
    assert rates[1:] == [searched[0], "LoRA, seed 0"] and not results["failed"]


def test_a_row_whose_rates_all_diverged_is_reported(tiny, tmp_path, rates, capsys):
    options = dict(only=["LoRA"], seeds=1, search=[1, 3], search_size=4)
    fast = [*tiny, "optimizer.lr=0.1"]
    results = call(tmp_path, fast, **options)
    assert results["failed"] == {"LoRA": "every rate of its search diverged: add lower factors to --search"}
    assert "diverged at 0.3 | - |" in " ".join(markdown(results).split())
    assert "| 2/2 [" in capsys.readouterr().err  # the bar does not wait for its other runs
    assert call(tmp_path, fast, **options) == results and len(rates) == 2
    # No rate is at fault where none is searched for: the run is trained again.
    for count in (3, 4):
        assert (
            "not finite" in call(tmp_path / "plain", fast, only=["LoRA"], seeds=1)["failed"]["LoRA, seed 0"]
        )
        assert len(rates) == count


def test_charts_that_fail_hide_no_error(tiny, tmp_path, trained, monkeypatch):
    def fail(*args):
        raise OSError("no room for charts")

    monkeypatch.setattr(runs.charts, "draw", fail)
    with pytest.raises(OSError, match="no room for charts"):
        call(tmp_path, tiny, only=["Mona"], against="Mona", seeds=1)

    def stop(job):
        raise KeyboardInterrupt("stopped")

    monkeypatch.setattr(runs, "work", stop)
    with pytest.raises(KeyboardInterrupt, match="stopped"):
        call(tmp_path, tiny, only=["Mona"], against="Mona", seeds=2)


def test_a_stop_leaves_tables_and_charts_of_what_has_run(tiny, tmp_path, trained, monkeypatch):
    work = runs.work

    def stop_at_the_second(job):
        if job.seed == 1:
            raise KeyboardInterrupt
        work(job)

    monkeypatch.setattr(runs, "work", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        call(tmp_path / "out", tiny, only=["Mona"], against="Mona", seeds=2)
    assert json.loads((tmp_path / "out/results.json").read_text())["rows"][0]["seeds"] == [0]
    assert (tmp_path / "out/score_by_seconds.png").stat().st_size > 0


def test_mean_spread_and_interval_are_numpys_and_scipys(tiny, tmp_path, trained):
    results = call(tmp_path, tiny, only=["Mona", "Full"], missing=True)
    rows = {row["name"]: row for row in results["rows"]}
    ap = rows["Full"]["figures"]["bbox/AP"]
    assert ap["mean"] == pytest.approx(np.mean(ap["values"])) and ap["std"] == pytest.approx(
        np.std(ap["values"], ddof=1)
    )
    assert rows["Full"]["seconds_per_step"] == 1.5 and rows["Full"]["difference"] is None
    lines = markdown(results).splitlines()
    head, full, lost = (
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in (lines[0], *(x for x in lines if x.startswith(("| Full ", "| Full, no infrared"))))
    )
    # Columns that the data do not report are left out.
    assert head[:4] == ["", "AP", "AP50", "against Full"]
    assert full[1].endswith("± 2.1") and lost[1].endswith("± 2.1") and lost[-1] == ""
    one = markdown(call(tmp_path / "one", tiny, only=["Full"], seeds=1))
    assert "| Full " in one and "±" not in one.split("\n- ")[0]

    runs_of = [
        [{"seed": i, "figures": {"none": {"x": value}}} for i, value in enumerate(values)]
        for values in ([5.0, 7.0, 9.5], [4.0, 6.5, 7.0, 1.0])
    ]
    found = summary.difference(*runs_of, "x")
    interval = stats.ttest_rel([5.0, 7.0, 9.5], [4.0, 6.5, 7.0]).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx(tuple(interval)) and found["seeds"] == [0, 1, 2]
    assert found["verdict"] == "level with"


@pytest.mark.parametrize("shift, verdict", [(5, "ahead of"), (-5, "behind"), (0.1, "level with")])
def test_the_verdict_follows_from_the_interval(shift, verdict):
    base = [{"seed": i, "figures": {"none": {"x": float(i)}}} for i in range(4)]
    runs_ = [{"seed": i, "figures": {"none": {"x": i + shift + 0.2 * (-1) ** i}}} for i in range(4)]
    assert summary.difference(runs_, base, "x")["verdict"] == verdict
    rates = [
        [{**r, "figures": {"none": {"bbox/MR": r["figures"]["none"]["x"]}}} for r in g] for g in (runs_, base)
    ]
    opposite = {"ahead of": "behind", "behind": "ahead of"}.get(verdict, verdict)
    assert summary.difference(*rates, "bbox/MR")["verdict"] == opposite
    one = summary.difference(runs_[:1], base, "x")
    assert one["verdict"] is None and one["mean"] == pytest.approx(shift + 0.2)
    assert summary.difference([], base, "x") is None


def test_rows_differ_from_the_config_in_what_they_are_alone(tiny, tmp_path):
    tuner = ["model.backbone.net.tuner.norm=GN", "optimizer.params.added_lr_factor=7"]
    plan = Plan(CONFIG, [*tiny, *tuner], tmp_path / "out", Options(variants=["B 8: method=lora"], only=ROWS))
    planned = {key: plan.final_jobs(key, None)[0] for key in plan.present}
    configs = {key: load_config(job.config, job.overrides) for key, job in planned.items()}
    nets = {key: cfg.model.backbone.net for key, cfg in configs.items()}
    assert list(configs) == [*ROWS, "B_8"]
    for key, cfg in configs.items():
        assert cfg.optimizer.params.added_lr_factor == (3 if key == "IVTuning-3x" else 1)
        dropout = key == "IVTuning-dropout"
        assert cfg.dataloader.train.mapper.get("modality_dropout", 0) == (0.3 if dropout else 0)
        assert nets[key].tuner.get("norm") == ("GN" if key.startswith("IVTuning") else None)
    assert nets["LoRA"].tuner["rank"] == nets["Mona"].tuner.hidden_dim == nets["IVTuning"].tuner.hidden_dim
    assert nets["B_8"].tuner == nets["LoRA"].tuner
    compared = {METHODS[row.method].tuner.__name__ for row in ROWS.values() if row.method}
    assert compared | {"IVTuning"} == set(TUNERS)
    for key in ROWS:
        net, method = build(nets[key], ""), METHODS[ROWS[key].method or "IVTuning"]
        assert (type(net.stem), type(net.tuner)) == (method.stem, method.tuner)


def test_the_widths_that_a_config_states_are_used(tiny, tmp_path):
    config = "configs/MSRS/vit_t_ivtuning.py"
    row = ROWS["LoRA"]
    cfg = load_config(config, row.overrides([], None))
    assert cfg.model.backbone.net.tuner["rank"] == cfg.methods.LoRA["rank"] == 24


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--only", "Mona,Lora"], "no method 'Lora'; did you mean 'LoRA'"),
        (["--seeds", "0"], "--seeds 0: give 1 or more"),
        (["--processes", "0"], "--processes 0: give 1 or more"),
        (["--iterations", "0"], "--iterations 0: give 1 or more"),
        (["--sizes", "4,0"], "--sizes 0,4: give 1 or more"),
        (["--sizes", "4,x"], "--sizes 4,x: give numbers"),
        (["--sizes", "13"], "--sizes 13: synthetic_train has 12 pairs"),
        (["--search", "1e-4,1e-3"], "--search 0.0001,0.001: give factors"),
        (["--search", "1", "--hold-out", "0"], "--hold-out 0: the search needs pairs"),
        (
            ["--search", "1", "--search-size", "11"],
            "--search-size 11: of the 12 pairs of synthetic_train 2 are",
        ),
        (["--variant", "IVTuning"], "--variant 'IVTuning': write it as"),
        (["--variant", "Full: train.max_iter=1"], "there is a row Full: choose another name"),
        (["--variant", "GN: model.backbone.net.tuner.nrm=GN"], "has no 'nrm'; did you mean 'norm'"),
        (["--against", "Ful"], "--against Ful: no such row"),
        (["train.init_checkpoint=nowhere.pth"], "no trunk file 'nowhere.pth': `make demo` writes"),
        (["train.init_checkpoint="], "no trunk file ''"),
        (["model.backbone.net.tuner=Full"], "give the data set's IV-tuning config"),
        (["dataloader.test.dataset.names=synthetic_dev"], "no data set is called 'synthetic_dev'"),
        (["--config-file", "configs/MSRS/nano_ivtuning.py"], "needs --output DIR"),
    ],
)
def test_bad_arguments_end_in_one_line(tiny, tmp_path, capsys, arguments, words):
    output = [] if "--config-file" in arguments else ["--output", str(tmp_path / "out")]
    assert words in line_of(capsys, [*tiny, *output, *arguments], "compare")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_label_maps_are_compared_by_their_own_figure(pairs, tmp_path):
    config = "configs/synthetic/seg_ivtuning.py"
    small = ["model.backbone.net.embed_dim=24", "model.backbone.net.num_heads=2", "train.max_iter=1"]
    small.append("dataloader.train.total_batch_size=2")
    torch.manual_seed(0)
    model = runs.run.build_model(load_config(config, [*small, "train.init_checkpoint="]))
    torch.save({"model": dict(model.backbone.net.named_base_parameters())}, tmp_path / "trunk.pth")
    overrides = [*small, f"train.init_checkpoint={tmp_path / 'trunk.pth'}"]
    options = Options(only=["both"], seeds=1, sizes=[2], search=[1], hold_out=2, search_size=2, processes=1)
    results = compare(config, tmp_path / "out", overrides, options)
    assert not results["failed"] and results["conditions"]["metric"] == "sem_seg/mIoU"
    (row,) = results["rows"]
    assert 0 <= row["figures"]["sem_seg/mIoU"]["mean"] <= 100 and row["pairs"] == 2
    assert "mIoU" in markdown(results)
