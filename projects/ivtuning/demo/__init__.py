"""The demo: a tiny trunk, pretrained on visible images and tuned on pairs, in minutes on a CPU.

It compares ways to predict boxes and label maps of the same scenes, and oriented boxes of vehicles seen from
a drone. Every row starts from the same trunk file and seed with a new neck and new heads, and runs as many
iterations as the others of its task.
"""

# ruff: noqa: E402 (detectron2 is prepared before anything imports it)

from __future__ import annotations

from .. import compat

compat.prepare()

import json
import time
from pathlib import Path

import torch
from omegaconf import DictConfig

from ..backbones.trunk import find_trunk
from ..comparison.models import final
from ..data.catalog import data_root
from ..data.synthetic.drone import generate_drone_set
from ..data.synthetic.generate import generate
from ..engine import run
from ..utils.files import atomic_write, make_folder
from . import detection, oriented, segmentation
from .page import write_demo_page
from .rows import load

# The tasks in their order; each module has its TASK, and its functions `train` and `table`.
PARTS = (detection, oriented, segmentation)


def main(output: Path, overrides: list[str]) -> dict:
    """Run the whole demo into `output` and return the content of results.json.

    Args:
        overrides: config overrides for every training run, such as ``train.max_iter=20``; those of a head
            apply to the runs that have it.
    """
    start = time.time()
    # All configs are loaded at once: a wrong override stops the demo here, not minutes later.
    trunk = output / "trunk.pth"
    pretraining = load("configs/synthetic/pretrain.py", output / "pretrain", detection.TASK.own(overrides))
    tuning = [f"train.init_checkpoint={trunk}", *overrides]
    configs = [part.TASK.load(output, tuning) for part in PARTS]
    steps = len(PARTS) + 3

    make_folder(output)
    print(f"1/{steps}  paired scenes", flush=True)
    generate(data_root() / "synthetic")
    generate_drone_set(data_root() / "synthetic_drone")

    print(f"\n2/{steps}  the pretrained trunk: trained from scratch on visible images", flush=True)
    pretrained = run.train(pretraining, progress="pretrain", replace=True)["bbox"]
    _write_trunk(pretraining, trunk)

    results = {}
    for number, (part, rows) in enumerate(zip(PARTS, configs, strict=True), start=3):
        task = part.TASK
        print(f"\n{number}/{steps}  {task.title}: {len(task.methods)} ways to use it", flush=True)
        results |= {task.folder: part.train(rows)} if task.folder else part.train(rows)

    print(f"\n{steps}/{steps}  pictures", flush=True)
    pictures = {
        part.TASK.title: part.TASK.draw(rows, output / "pictures")
        for part, rows in zip(PARTS, configs, strict=True)
    }
    results |= {
        "pretraining": {"AP": pretrained["AP"], "iterations": int(pretraining.train.max_iter)},
        "seconds": round(time.time() - start, 1),
    }
    with atomic_write(output / "results.json") as temp:
        temp.write_text(json.dumps(results, indent=2) + "\n")
    tables = {part.TASK.title: part.table(results) for part in PARTS}
    for title, table in tables.items():
        print(f"\n{title}\n\n{table.text()}")
    print(f"\n{results['seconds']:.0f} s in all.\n")
    print(f"{output / 'results.json'}\n{write_demo_page(output, tables, pictures)}")
    return results


def _write_trunk(cfg: DictConfig, path: Path) -> None:
    """Write the base of the trained model alone, like a file of pretrained weights."""
    model = run.load_model(cfg, final(cfg))
    trunk = find_trunk(model).trunk
    with atomic_write(path) as temp:
        torch.save({"model": {name: p.data for name, p in trunk.named_base_parameters()}}, temp)
