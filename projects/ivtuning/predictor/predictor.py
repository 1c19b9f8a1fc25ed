"""Trained models as functions from images to predictions."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from detectron2.structures import Instances
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ..checkpoint.header import adapter_classes
from ..config import build, load_config
from ..config.overrides import apply_overrides
from ..data.mappers.classification import ClassificationMapper
from ..engine.checks import find_device, sets_classes
from ..engine.precision import autocast_dtype, warn_if_slow
from ..engine.run import load_model
from ..engine.speed import matching_precision
from ..errors import UserError
from ..evaluation.confusion import label_map
from ..evaluation.saliency import SaliencyEvaluator, saliency
from ..export.config import check_images, check_sets, config_of_file
from ..export.meta_arch import OnnxMetaArch
from ..heads.dino.trace import find_decoder, trace_queries
from ..utils.targets import locate_target
from ..visualization.gallery import painter_of_config, painter_of_prediction
from ..visualization.overlay import draw_on_image
from .classes import model_classes
from .inputs import Images, is_batch, records_of

# Of a detector, a segmentor (or a model of salient objects, in floating point) and a classifier.
Prediction: TypeAlias = Instances | np.ndarray | Tensor
_GROUPS = ("dataloader", "model", "train")


class Predictor:
    """A trained model as a function from a pair of images to its prediction.

    ::

        predict = Predictor("configs/M3FD/vitdet_ivtuning_b.py", "base.pth", "m3fd.safetensors")
        instances = predict("visible.png", "infrared.png")

    Images go through the config's test mapper, so that a prediction is the one that evaluation sees.

    Args:
        config: a config's path or name, see :func:`ivtuning.load_config`, or a config; it stays as it is.
        weights: a checkpoint, or the base of `adapter`; None: the config's `train.init_checkpoint`.
        adapter: adapter file to load on top of `weights`.
        overrides: changes to the config, "key=value".
        device: such as "cpu" or "cuda:1"; None: the config's `train.device`.
        precision: "fp32", as evaluation; "bf16" or "fp16" run the model under autocast.

    Attributes:
        model: the model in evaluation mode.
        mapper: maps a dataset dict to the model's input.
        ir_range: values of infrared images above 8 bits that the mapper maps to 0 and 255, see
            :func:`.data.images.read_pair`.

    Raises:
        UserError: a config, weights or an adapter that cannot be loaded, a device that this machine lacks, or
            another precision.
    """

    # As an exported file has them: no adapter, and evaluation's precision.
    _adapter: str | None = None
    _dtype: torch.dtype | None = None

    def __init__(
        self,
        config: str | os.PathLike | DictConfig,
        weights: str | os.PathLike | None = None,
        adapter: str | os.PathLike | None = None,
        *,
        overrides: Sequence[str] = (),
        device: str | torch.device | None = None,
        precision: str = "fp32",
    ):
        cfg = _read_config(config, overrides, device)
        place = find_device(cfg.train.device)
        dtype = autocast_dtype(precision, place, "precision")
        warn_if_slow(precision, place, "precision")
        weights = weights or cfg.train.init_checkpoint
        if not weights:
            raise UserError("there are no weights: give them, or set train.init_checkpoint in the config")
        self._read_mapper(cfg)
        self._adapter = None if adapter is None else os.fspath(adapter)
        self.model = load_model(cfg, os.fspath(weights), self._adapter).eval()
        self._dtype = dtype

    @classmethod
    def from_onnx(
        cls,
        path: str | os.PathLike,
        config: str | os.PathLike | DictConfig | None = None,
        *,
        overrides: Sequence[str] = (),
        device: str | torch.device | None = None,
    ) -> Predictor:
        """The predictor of a file of tools/export_model.py, which onnxruntime runs.

        Args:
            path: the file.
            config: says how images are read and resized, as for :class:`Predictor`; None: the config that the
                file names, with the overrides that it was exported with.
            overrides: changes to the config, "key=value".
            device: "cpu", "cuda" or "cuda:N"; None: the config's `train.device`.

        Raises:
            UserError: a file that cannot be run or gives no predictions, no such config, or one whose model
                takes other images, or whose sets, as far as they are on this machine, have another task or
                other classes.
        """
        if not isinstance(config, DictConfig):
            config, overrides = config_of_file(path, config, overrides)
        cfg = _read_config(config, overrides, device)
        self = cls.__new__(cls)
        self._read_mapper(cfg)
        self.model = OnnxMetaArch(path, cfg.train.device).eval()
        facts = self.model.file.metadata
        check_images(path, facts, cfg)
        check_sets(path, facts, cfg, sets_classes(cfg, facts["classes"]))
        return self

    def _read_mapper(self, cfg: DictConfig) -> None:
        self._cfg = cfg
        self.mapper = build(cfg, "dataloader.test.mapper")
        # What a map of two classes stands for shows in how it is evaluated.
        evaluator = locate_target(OmegaConf.select(cfg, "dataloader.evaluator._target_"))
        self._salient = isinstance(evaluator, type) and issubclass(evaluator, SaliencyEvaluator)
        self.ir_range = getattr(self.mapper, "ir_range", None)

    def __call__(self, visible: Images, infrared: Images = None) -> Any:
        """The prediction for one pair, or a list of predictions for lists of images, on the CPU.

        Args:
            visible: (H, W, 3) uint8 RGB, or a path; None where it is missing. A dataset dict of a registered
                set is also accepted, and names both images.
            infrared: (H, W) of uint8, uint16 or floating point, (H, W, 3) uint8, or a path; None where it is
                missing, or where the model takes visible images alone.

        Lists run as one batch. Their images may have different sizes; smaller ones are padded.

        Returns:
            A detector's `Instances` in pixels of the image, a segmentor's class ids (H, W) uint8, the
            probabilities (H, W) float32 of being salient where the config evaluates salient objects, or a
            classifier's probabilities (K,).

        Raises:
            UserError: images that cannot be read or do not belong together, lists of different lengths, a
                missing image that the model does not fill, or scores that are not finite.
        """
        records = records_of(visible, infrared)
        if not records:
            return []
        if isinstance(self.mapper, ClassificationMapper) and any("ir_file_name" in r for r in records):
            raise UserError("a classifier takes visible images alone: leave infrared out")
        predictions = self.run([self.mapper(record) for record in records])
        return predictions if is_batch(visible) or is_batch(infrared) else predictions[0]

    @torch.inference_mode()
    def run(self, samples: Sequence[dict]) -> list[Any]:
        """The predictions for one batch of samples, as the mapper gives them."""
        with self._precision():
            outputs = self.model(list(samples))
        return [self._result(output, sample) for output, sample in zip(outputs, samples, strict=True)]

    def _result(self, output: Mapping[str, Any], sample: Mapping[str, Any]) -> Prediction:
        name = sample.get("file_name", "an image")
        if "instances" in output:
            return output["instances"].to("cpu")
        if "sem_seg" in output and not self._salient:
            return label_map(output["sem_seg"], name)
        is_map = "sem_seg" in output
        scores = torch.from_numpy(saliency(output["sem_seg"])) if is_map else output["scores"].to("cpu")
        if not scores.isfinite().all():
            raise UserError(f"scores of {name} are not finite: check the weights")
        return scores.float().numpy() if is_map else scores

    def draw(
        self, visible: Images, prediction: Prediction, infrared: Images = None, threshold: float = 0.5
    ) -> np.ndarray:
        """A picture of a prediction with class names and scores, (H', W', 3) uint8 RGB.

        On one image, it has that image's size. Both images, or a dataset dict that names both, make panels
        side by side, enlarged where they are small.

        Args:
            visible, infrared: one pair, as in a call.
            threshold: least score of a drawn box.
        """
        if is_batch(visible) or is_batch(infrared):
            raise UserError("draw one pair after the other, not lists")
        record = records_of(visible, infrared)[0]
        painter = painter_of_prediction(prediction, *self._names, threshold)
        vis, ir = painter.read(record, self.ir_range)
        if vis is not None and ir is not None:
            return painter.draw(record, vis, ir, prediction)[0].picture()
        return draw_on_image(ir if vis is None else vis, prediction, *self._names, threshold)

    @property
    def classes(self) -> list[str]:
        """Names by class id: the adapter's or exported file's, or those of the config's sets; else none."""
        return list(self._names[0])

    @cached_property
    def _names(self) -> tuple[list[str], list]:
        """The classes' names, and their colors where the set has its own."""
        exported = isinstance(self.model, OnnxMetaArch)
        stored = self.model.file.classes if exported else adapter_classes(self._adapter)
        names = model_classes(self._cfg, stored)
        painter: Any = painter_of_config(self._cfg, 0.0)
        classes, colors = list(painter.classes) or names, list(getattr(painter, "colors", ()))
        return (names, []) if names and names != classes else (classes, colors)

    def _precision(self) -> contextlib.AbstractContextManager:
        if self._dtype is None:
            return matching_precision(self.model)
        return torch.autocast(next(self.model.parameters()).device.type, self._dtype)


def _read_config(
    config: str | os.PathLike | DictConfig, overrides: Sequence[str], device: str | torch.device | None
) -> DictConfig:
    """A config of its own, with the overrides and the device."""
    if isinstance(config, DictConfig):
        cfg = copy.deepcopy(config)
        apply_overrides(cfg, overrides)
    else:
        cfg = load_config(config, overrides, _GROUPS)
    if device is not None:
        cfg.train.device = str(device)
    return cfg


class QueryTracer(Predictor):
    """A query detector as a function from a pair to the :class:`..heads.dino.trace.Trace` of its queries.

    Raises:
        UserError: the model has no queries.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        find_decoder(self.model)  # raises now, not at the first pair

    @classmethod
    def from_onnx(cls, *args: Any, **kwargs: Any) -> Predictor:
        raise UserError("an ONNX file tells nothing of its queries: give a config and weights")

    def run(self, samples: Sequence[dict]) -> list[Any]:
        """The traces of one batch of samples, on the CPU."""
        with self._precision():
            return trace_queries(self.model, list(samples))
