"""The demo: a tiny trunk, pretrained on visible images and tuned on pairs, in minutes on a CPU.

It compares four ways to predict boxes and three ways to predict label maps, on the same scenes. Every row
starts from the same trunk file and seed with a new neck and new heads, and runs as many iterations as the
others of its task.
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
from ..data.catalog import data_root
from ..data.synthetic.generate import generate
from ..engine import run
from ..utils.files import atomic_write, make_folder
from . import detection, segmentation
from .page import write_demo_page
from .rows import final, load


def main(output: Path, overrides: list[str]) -> dict:
    """Run the whole demo into `output` and return the content of results.json.

    Args:
        overrides: config overrides for every training run, such as ``train.max_iter=20``; those of a head
            apply to the runs that have it.
    """
    start = time.time()
    # All configs are loaded at once: a wrong override stops the demo here, not minutes later.
    trunk = output / "trunk.pth"
    pretraining = load("configs/synthetic/pretrain.py", output / "pretrain", detection.own(overrides))
    tuning = [f"train.init_checkpoint={trunk}", *overrides]
    boxes = {
        name: load(detection.CONFIG, output / name.replace(" ", "_"), detection.own(tuning), method)
        for name, method in detection.ROWS.items()
    }
    maps = {
        name: load(
            segmentation.CONFIG,
            output / "segmentation" / name.replace(" ", "_"),
            segmentation.own(tuning),
            method,
        )
        for name, method in segmentation.ROWS.items()
    }

    make_folder(output)
    print("1/5  paired scenes", flush=True)
    scenes = generate(data_root() / "synthetic")

    print("\n2/5  the pretrained trunk: trained from scratch on visible images", flush=True)
    pretrained = run.train(pretraining, progress="pretrain", replace=True)["bbox"]
    _write_trunk(pretraining, trunk)

    print("\n3/5  boxes: four ways to use it", flush=True)
    rows = [detection.row(name, cfg) for name, cfg in boxes.items()]
    missing = [detection.without(boxes["IV-tuning"], rows[-1], lost) for lost in ("infrared", "visible")]

    print("\n4/5  label maps: three ways to use it", flush=True)
    segmented = [segmentation.row(name, cfg) for name, cfg in maps.items()]

    print("\n5/5  pictures", flush=True)
    pictures = {
        "boxes": detection.draw(boxes, output / "pictures"),
        "label maps": segmentation.draw(maps, output / "pictures" / "segmentation"),
    }
    results = {
        "rows": rows,
        "missing": missing,
        "segmentation": {"rows": segmented},
        "pretraining": {"AP": pretrained["AP"], "iterations": int(pretraining.train.max_iter)},
        "single_modality_share": scenes["val"]["single_share"],
        "seconds": round(time.time() - start, 1),
    }
    with atomic_write(output / "results.json") as temp:
        temp.write_text(json.dumps(results, indent=2) + "\n")
    tables = {"boxes": detection.table(results), "label maps": segmentation.table(results)}
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
