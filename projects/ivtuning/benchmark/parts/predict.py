"""The predictor on a pair in memory, against its model alone on the mapped pair."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from ...config import RUN_GROUPS, load_config
from ...engine.run import build_model
from ...predictor import Predictor
from ..measures.timing import Times, interleaved, summary
from ..options import Options
from ..report import Result, Row, absolute

CONFIG = "configs/M3FD/vitdet_ivtuning_b.py"
SIZE = (480, 640)  # height and width of the images, before the mapper


def measure(options: Options) -> Result:
    """Rows predict_over_model and predict_over_parts. Weights and images are random.

    The model's own time has the move of its output to the CPU, without which nobody sees it.
    """
    name, size = options.config or CONFIG, options.size or SIZE
    cfg = load_config(name, options.overrides, RUN_GROUPS)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "random.pth")
        torch.save({"model": build_model(cfg).state_dict()}, weights)
        predict = Predictor(cfg, weights)
    rng = np.random.default_rng(0)
    visible = [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(options.batch)]
    infrared = [rng.integers(0, 256, size, np.uint8) for _ in range(options.batch)]
    records = [
        {"file_name": "visible", "ir_file_name": "infrared", "pixels": v, "ir_pixels": i}
        for v, i in zip(visible, infrared, strict=True)
    ]
    samples = [predict.mapper(record) for record in records]

    def model(inputs: list[dict]) -> None:
        with torch.inference_mode():
            for output in predict.model(inputs):
                for value in output.values():
                    value.to("cpu")

    runs = {
        "predictor": lambda: predict(visible, infrared),
        "mapper and model": lambda: model([predict.mapper(record) for record in records]),
        "model": lambda: model(samples),
    }
    times: Times = interleaved(runs, options.repeats, "prediction", options.warmup)
    changed = " ".join(["", *options.overrides])
    result = Result(f"{name}{changed}, {size[0]} x {size[1]} px, batch {options.batch}, fp32, random weights")
    result.raw["seconds"] = summary(times)
    result.rows["predict_over_model"] = Row.between(times, "predictor", "model")
    result.rows["predict_over_parts"] = Row.between(times, "predictor", "mapper and model")
    result.listings.append(absolute(runs, times, options.batch, "ms"))
    return result
