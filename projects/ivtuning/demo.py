"""The main job in minutes on a CPU: a tiny trunk, pretrained on visible images, tuned on pairs four ways."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path

import torch
from detectron2.config import LazyConfig
from omegaconf import DictConfig
from tabulate import tabulate

from .backbones.trunk import find_trunk
from .checkpoint import save_adapter
from .checkpoint.adapter import group_sizes
from .checkpoint.files import atomic
from .config import load_config
from .data.preparation import data_root
from .data.synthetic import generate
from .engine import run
from .engine.report import count_parameters
from .evaluation.gallery import draw_all, load_predictor, read_dataset

# Row names of the table and the config of each.
ROWS = {
    "visible only": "configs/synthetic/visible.py",
    "infrared only": "configs/synthetic/infrared.py",
    "full": "configs/synthetic/full.py",
    "IV-tuning": "configs/synthetic/ivtuning.py",
}
PICTURES = 16


def main(output: Path, overrides: list[str]) -> dict:
    """Run the whole demo into `output`; returns what it writes to results.json.

    Every row starts from the same trunk file, with fresh neck and heads, and runs the same iterations.

    Args:
        overrides: config overrides for every training run, such as ``train.max_iter=20``.
    """
    start = time.time()
    print("1/4  paired scenes", flush=True)
    scenes = generate(data_root() / "synthetic")

    print("\n2/4  the pretrained trunk: trained from scratch on visible images", flush=True)
    trunk = output / "trunk.pth"
    pretraining = _config("configs/synthetic/pretrain.py", output / "pretrain", overrides)
    pretrained = run.train(pretraining, progress="pretrain")["bbox"]
    _write_trunk(pretraining, trunk)

    print("\n3/4  four ways to use it", flush=True)
    configs = {
        name: _config(file, output / name.replace(" ", "_"), [f"train.init_checkpoint={trunk}", *overrides])
        for name, file in ROWS.items()
    }
    rows = [_row(name, cfg) for name, cfg in configs.items()]
    missing = [_without(configs["IV-tuning"], rows[-1], modality) for modality in ("infrared", "visible")]

    print("\n4/4  pictures", flush=True)
    page = _draw(configs, output / "pictures")
    results = {
        "rows": rows,
        "missing": missing,
        "pretraining": {"AP": pretrained["AP"], "iterations": int(pretraining.train.max_iter)},
        "single_modality_share": scenes["val"]["single_share"],
        "seconds": round(time.time() - start, 1),
    }
    with atomic(output / "results.json") as temp:
        temp.write_text(json.dumps(results, indent=2) + "\n")
    print("\n" + table(results))
    print(f"\n{output / 'results.json'}\n{page}")
    return results


def table(results: dict) -> str:
    """The results as a table for people, with what they hold for below it."""
    columns = {
        "": "name",
        "AP": "AP",
        "AP50": "AP50",
        "AP both": "AP_both",
        "AP vis only": "AP_visible",
        "AP ir only": "AP_infrared",
        "trained in backbone": "backbone_trainable",
        "of base": "ratio_of_base",
        "of total": "ratio_of_total",
        "adapter MB": "adapter_mb",
        "train s": "train_seconds",
    }
    formats = {"backbone_trainable": "{:,}", "ratio_of_base": "{:.1%}", "ratio_of_total": "{:.1%}"}
    formats |= {"name": "{}", "adapter_mb": "{:.2f}", "train_seconds": "{:.0f}"}
    body = [
        [formats.get(key, "{:.1f}").format(row[key]) for key in columns.values()]
        for row in results["rows"] + results["missing"]
    ]
    first, last = results["rows"][0], results["rows"][-1]
    notes = [
        f"64 pairs; {results['single_modality_share']:.1%} of their objects show in one modality only.",
        f"Trunk: pretrained on visible images for {results['pretraining']['iterations']} iterations; then "
        f"{first['iterations']} iterations a row, one seed.",
        "AP both | vis only | ir only: AP on the objects that both images show, or only one of them.",
        "no infrared, no visible: the same model with one of the two images missing (filled with its mean).",
        f"Adapter: stem and tuner (full: the whole trunk too); neck and heads add {last['task_mb']:.2f} MB.",
        f"{results['seconds']:.0f} s in all.",
    ]
    return "\n".join([tabulate(body, list(columns), stralign="right", disable_numparse=True), "", *notes])


def _config(file: str, output: Path, overrides: list[str]) -> DictConfig:
    cfg = load_config(file, [*overrides, f"train.output_dir={output}"])
    output.mkdir(parents=True, exist_ok=True)
    LazyConfig.save(cfg, str(output / "config.yaml"))
    return cfg


def _final(cfg: DictConfig) -> str:
    return f"{cfg.train.output_dir}/model_final.pth"


def _write_trunk(cfg: DictConfig, path: Path) -> None:
    """Keep the base of the trained model alone, as a pretrained trunk from elsewhere would be."""
    model = run.load_model(cfg, _final(cfg))
    _, trunk = find_trunk(model)
    with atomic(path) as temp:
        torch.save({"model": {name: p.data for name, p in trunk.named_base_parameters()}}, temp)


def _without(cfg: DictConfig, row: dict, modality: str) -> dict:
    """The trained model's `row` once more, evaluated without one of the two images (filled with its mean)."""
    cfg = copy.deepcopy(cfg)
    cfg.dataloader.test.mapper.drop = modality
    cfg.model.missing = "mean"
    found = run.evaluate_checkpoint(cfg, _final(cfg))["bbox"]
    return {**row, "name": f"{row['name']}, no {modality}", **_figures(found)}


def _figures(found: dict) -> dict:
    return {
        key.replace("-", "_"): found[key] for key in ("AP", "AP50", "AP-both", "AP-visible", "AP-infrared")
    }


def _row(name: str, cfg: DictConfig) -> dict:
    start = time.time()
    found = run.train(cfg, progress=name)["bbox"]
    seconds = time.time() - start
    model = run.load_model(cfg, _final(cfg))
    adapter = Path(cfg.train.output_dir, "adapter.safetensors")
    save_adapter(
        model, adapter, metadata={"dataset": "synthetic_train", "AP": f"{found['AP']:.2f}"}, config=cfg
    )
    sizes = group_sizes(adapter)
    counts = count_parameters(model)
    return {
        "name": name,
        **_figures(found),
        **{
            key: counts[key]
            for key in ("backbone_trainable", "backbone_base", "ratio_of_base", "ratio_of_total")
        },
        "model_trainable": counts["model_trainable"],
        "adapter_mb": sizes["backbone"] / 1e6,
        "task_mb": sizes["task"] / 1e6,
        "iterations": int(cfg.train.max_iter),
        "train_seconds": round(seconds, 1),
    }


def _draw(configs: dict[str, DictConfig], output: Path) -> Path:
    """Predictions of the visible-only and the tuned model on every fourth pair of the validation set."""
    models = {
        name: load_predictor(configs[name], _final(configs[name]), None)
        for name in ("visible only", "IV-tuning")
    }
    records, classes = read_dataset("synthetic_val")
    step = max(1, len(records) // PICTURES)
    return draw_all(
        records[::step],
        classes,
        lambda record: {name: predict(record) for name, predict in models.items()},
        output,
        threshold=0.5,
        grid=True,
        facts={"source": "synthetic_val", "models": "visible only, IV-tuning", "threshold": "0.5"},
    )
