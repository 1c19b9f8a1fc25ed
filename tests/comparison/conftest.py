"""A tiny trunk for comparisons, and runs that take no time."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.comparisons import CONFIG
from helpers.runs import TINY

from ivtuning.comparison import ROWS, runs, summary
from ivtuning.config import load_config


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
