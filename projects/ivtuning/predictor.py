"""Predictions of a trained model for single pairs."""

# ruff: noqa: E402 (detectron2 is prepared before anything imports it)

from __future__ import annotations

from . import compat

compat.prepare()

import numpy as np
import torch
from detectron2.structures import Instances
from omegaconf import DictConfig
from torch import Tensor

from .config import build
from .engine.run import load_model
from .evaluation.confusion import label_map
from .heads.dino.trace import Trace, find_decoder, trace_queries


class Predictor:
    """A trained model as a function from a dataset dict to its prediction.

    ::

        predict = Predictor(load_config("configs/synthetic/ivtuning.py"), "model.pth")
        instances = predict({"file_name": "visible.png", "ir_file_name": "infrared.png"})

    Args:
        cfg: config of the model; its `dataloader.test.mapper` reads the images.
        weights: a checkpoint; None: the config's `train.init_checkpoint`.
        adapter: adapter file to load on top of `weights`.

    Attributes:
        model: the model in evaluation mode.
        mapper: maps a dataset dict to the model's input.
        ir_range: raw counts of 16-bit infrared images that the mapper maps to 0 and 255, see
            :func:`.data.images.read_pair`.
    """

    def __init__(self, cfg: DictConfig, weights: str | None = None, adapter: str | None = None):
        self.mapper = build(cfg, "dataloader.test.mapper")
        self.ir_range = getattr(self.mapper, "ir_range", None)
        self.model = load_model(cfg, weights or cfg.train.init_checkpoint, adapter).eval()

    @torch.inference_mode()
    def __call__(self, record: dict) -> Instances | np.ndarray | Tensor:
        """The prediction for one pair, on the CPU.

        Returns:
            A detector's `Instances` in pixels of the file, a segmentor's class ids (H, W) uint8, or a
            classifier's probabilities (K,).

        Raises:
            UserError: the pair cannot be read, or the scores are not finite.
        """
        output = self.model([self.mapper(record)])[0]
        if "sem_seg" in output:
            return label_map(output["sem_seg"], record["file_name"])
        return output["instances" if "instances" in output else "scores"].to("cpu")


class QueryTracer(Predictor):
    """A query detector as a function from a dataset dict to the :class:`Trace` of its queries, on the CPU.

    Raises:
        UserError: the model has no queries.
    """

    def __init__(self, cfg: DictConfig, weights: str | None = None, adapter: str | None = None):
        super().__init__(cfg, weights, adapter)
        find_decoder(self.model)  # raises now, not at the first pair

    def __call__(self, record: dict) -> Trace:
        return trace_queries(self.model, [self.mapper(record)])[0]
