"""The benchmark's parts: one module each, with a function ``measure(options) -> Result``.

:data:`PARTS` names them all. Reading it loads no torch, so `tools/benchmark.py --help` can list it at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..options import Options
    from ..report import Result


class Part(NamedTuple):
    """One line of ``--help``, and whether the part belongs to ``all``."""

    description: str
    in_all: bool = False


# name of the module: what it measures
PARTS = {
    "step": Part("training steps and saved activations: IV-tuning, full fine-tuning, plain reference", True),
    "alternatives": Part("training steps against detectron2's own ViT, plain modules, and peft's LoRA"),
    "relpos": Part("attention with decomposed relative positions, against explicit attention", True),
    "oriented": Part("NMS of oriented boxes, against torchvision's of upright ones"),
    "infer": Part("inference, against the frozen trunk alone", True),
    "predict": Part("the predictor on a pair in memory, against its model alone"),
    "export": Part("exported files in onnxruntime, against the same models in PyTorch"),
    "data": Part("the paired loader, against decoding the same files", True),
    "eval": Part("COCO evaluation, against pycocotools", True),
    "adapters": Part("saving and loading an adapter, against the whole checkpoint", True),
    "startup": Part("a tool's --help, against the import of torch", True),
    "growth": Part("how a step's time and memory grow with pixels and with depth"),
    "distributed": Part("several processes under DDP, against one"),
    "neighbor": Part("training and evaluation beside busy processes, against a machine of their own"),
    "profile": Part("the slowest kernels of a training step, with IV-tuning and full fine-tuning"),
    "budget": Part("a step's launches, bytes and FLOPs, counted, and their least time on a card"),
    "model": Part("a config's whole model in training and inference, against its full fine-tuning"),
}


def measure(part: str, options: Options) -> Result:
    """Run the part named `part`."""
    return importlib.import_module(f".{part}", __name__).measure(options)
