"""Exported files in onnxruntime, against the same models in PyTorch."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from ...config import RUN_GROUPS, load_config
from ...engine.run import build_model
from ...engine.speed import matching_precision
from ...errors import UserError
from ...export.export import export_model
from ...export.meta_arch import OnnxMetaArch
from ...export.options import Options as ExportOptions
from ..measures.timing import interleaved, summary
from ..options import Options
from ..report import Result, Row, absolute
from ..subjects.batches import random_pairs

# key of the row: config
CONFIGS = {
    "export_vitdet_b": "configs/M3FD/vitdet_ivtuning_b.py",
    "export_segformer_swin_l": "configs/MSRS/segformer_ivtuning_swin_l.py",
    "export_dino_swin_l": "configs/M3FD/dino_ivtuning_swin_l.py",
}
SIZE = (512, 512)


def measure(options: Options) -> Result:
    """Rows export_*: seconds of onnxruntime / seconds of PyTorch, both from samples to predictions.

    Weights and images are random. Both have torch's number of threads, and on CUDA both are there.
    """
    size = options.size or SIZE
    configs = {"export_config": options.config} if options.config else CONFIGS
    device = _device()
    changed = " ".join(["", *options.overrides])
    result = Result(
        f"{', '.join(configs.values())}{changed}, {size[0]} x {size[1]} px, batch {options.batch}, fp32 on "
        f"{device}, {torch.get_num_threads()} threads, random weights"
    )
    result.raw["seconds"] = {}
    for key, config in configs.items():
        cfg = load_config(config, [*options.overrides, f"train.device={device}"], RUN_GROUPS)
        _measure(result, key, cfg, size, options)
    return result


def _measure(result: Result, key: str, cfg: DictConfig, size: tuple[int, int], options: Options) -> None:
    """Add the row `key` for the model of `cfg`."""
    if cfg.model.get("square_pad"):
        cfg.model.square_pad = max(size)  # otherwise the time would be that of the larger square
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    samples = random_pairs(model, size, options.batch)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        export_model(model, file, ExportOptions(size, options.batch), check=0)
        onnx = OnnxMetaArch(file, cfg.train.device)

    def run_torch() -> None:
        with torch.inference_mode(), matching_precision(model):
            for output in model(samples):
                for value in output.values():
                    value.to("cpu")

    runs: dict[str, Any] = {f"{key}, onnxruntime": lambda: onnx(samples), f"{key}, PyTorch": run_torch}
    times = interleaved(runs, options.repeats, "inference", options.warmup)
    result.raw["seconds"][key] = summary(times)
    result.rows[key] = Row.between(times, *runs)
    result.listings.append(absolute(runs, times, options.batch, "ms"))


def _device() -> str:
    """CUDA if both torch and onnxruntime have it, else the CPU."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("export needs onnxruntime: pip install 'ivtuning[export]'") from error
    both = torch.cuda.is_available() and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    return "cuda" if both else "cpu"
