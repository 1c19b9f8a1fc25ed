"""A config's whole model in training and inference, against full fine-tuning of the same model."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from detectron2.config import LazyCall
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ...backbones.trunk import TrunkPlace, find_trunk
from ...config import RUN_GROUPS, build, load_config
from ...engine.optim import build_optimizer
from ...engine.parameters import count_parameters
from ...engine.run import build_model
from ...engine.speed import speed_up
from ...engine.trainer import Trainer
from ...errors import UserError
from ...methods import METHODS
from ...tuning.stems import PromptStem
from ..measures.memory import fitting, peak_bytes
from ..measures.shares import shares
from ..measures.timing import Times, interleaved, summary
from ..options import Options
from ..report import Listing, Result, Row, pace
from ..subjects.batches import OBJECTS, random_batch

SIZE = (640, 640)
# Untimed rounds of training: a CPU's heap grows to its final size in them.
WARMUP = 3
# key of `shares`: heading of the column
PARTS = {"backbone": "backbone's forward", "matching": "matching"}
HEAD = ["method", "ms a step", "images/s in training", "peak GB", "inference images/s", "trained parameters"]


@dataclass
class Subject:
    """A model with its training step and its inference."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    train: Callable[[], None]
    infer: Callable[[], None]


def measure(options: Options) -> Result:
    """Rows model_*, and a listing of times, memory and shares of a step.

    Weights are random and stay so: the learning rates are 0, which does not change the arithmetic.
    """
    size = options.size or SIZE
    cfg = load_config(options.config, options.overrides, RUN_GROUPS)
    torch.backends.cudnn.benchmark = cfg.train.cudnn_benchmark  # as training sets it
    configs = {"config": cfg, "full": full_twin(cfg)}
    subjects = fitting({key: partial(make_subject, c, size, options.batch) for key, c in configs.items()})

    steps = {key: subject.train for key, subject in subjects.items()}
    training = interleaved(steps, options.repeats, "training step", WARMUP, may_not_fit=True)
    peaks = fitting({key: partial(_peak, subjects[key]) for key in steps})
    parts = fitting({key: partial(shares, subjects[key].model, run) for key, run in steps.items()})
    for subject in subjects.values():
        subject.optimizer.zero_grad(set_to_none=True)
        subject.model.eval()
    passes = {key: subject.infer for key, subject in subjects.items()}
    inference = interleaved(passes, options.repeats, "inference", options.warmup, may_not_fit=True)

    changed = " ".join(["", *options.overrides])
    result = Result(
        f"{options.config}{changed}, {size[0]} x {size[1]} px, batch {options.batch}, "
        f"{cfg.train.precision} in training and inference, {OBJECTS} random boxes an image; full: the same "
        "with tuner Full and SumStem for PromptStem; peak: with weights, gradients and the optimizer's state"
    )
    trained = {key: count_parameters(s.model)["model_trainable"] for key, s in subjects.items()}
    result.raw |= {"step_seconds": summary(training), "infer_seconds": summary(inference)}
    result.raw |= {"peak_bytes": peaks, "shares": parts, "trained": trained}
    result.rows["model_step_over_full"] = Row.between(training, "config", "full")
    result.rows["model_infer_over_full"] = Row.between(inference, "config", "full")
    if torch.cuda.is_available():
        result.rows["model_peak_over_full"] = Row.of_bytes(peaks, "config", "full")
    else:
        result.rows["model_peak_over_full"] = Row(note="on CUDA only")
    lines = [
        [tuner_name(configs[key]), *_pace(training, key, options.batch)]
        + [f"{peaks[key] / 1e9:.2f}" if key in peaks else "", _pace(inference, key, options.batch)[1]]
        + [f"{trained[key]:,}" if key in trained else ""]
        + [f"{parts[key][part]:.3f}" if part in parts.get(key, {}) else "" for part in PARTS]
        for key in configs
    ]
    result.listings.append(Listing([*HEAD, *PARTS.values()], lines))
    return result


def full_twin(cfg: DictConfig) -> DictConfig:
    """A copy of the config that fine-tunes the whole trunk.

    A model that reads infrared through prompts gets it as a second patch embedding, added to the visible one.

    Raises:
        UserError: the config has no model.backbone.net.
    """
    twin = copy.deepcopy(cfg)
    net = OmegaConf.select(twin, "model.backbone.net")
    if net is None:
        raise UserError("the config has no model.backbone.net, where its trunk must be")
    full = METHODS["Full"]
    if isinstance(build(net, "stem"), PromptStem):
        net.stem = LazyCall(full.stem)()
    net.tuner = LazyCall(full.tuner)()
    return twin


def make_subject(cfg: DictConfig, size: tuple[int, int], batch: int) -> Subject:
    """The model of `cfg` with its training step and its inference, on one random batch."""
    torch.manual_seed(0)
    model = build_model(cfg)
    samples = random_batch(model, size, batch)
    place = find_trunk(model)
    speed_up(model, place.trunk, cfg.train)
    trainer = make_trainer(cfg, model, place, itertools.repeat(samples))
    dtype = trainer.dtype

    def train() -> None:
        with trainer.storage:  # heads write their figures into it
            trainer.run_step()

    def infer() -> None:
        with torch.no_grad(), torch.autocast(trainer.device.type, dtype, enabled=dtype is not None):
            model(samples)

    return Subject(model, trainer.optimizer, train, infer)


def make_trainer(
    cfg: DictConfig, model: nn.Module, place: TrunkPlace, batches: Iterable[list[dict]] | None = None
) -> Trainer:
    """The trainer that :func:`...engine.run.train` makes, but with learning rates of 0.

    Args:
        place: the model's trunk.
        batches: infinite; None takes those of the config's training loader.
    """
    optimizer = build_optimizer(cfg.optimizer, model, place)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    trainer = Trainer(
        model,
        build(cfg, "dataloader.train") if batches is None else batches,
        optimizer,
        precision=cfg.train.precision,
        clip_grad_norm=cfg.train.clip_grad_norm,
        seed=cfg.train.seed,
    )
    trainer.iter, trainer.storage = 0, EventStorage()
    return trainer


def _peak(subject: Subject) -> int | None:
    """Peak bytes of a training step, including what exists between steps; None without CUDA."""
    subject.optimizer.zero_grad(set_to_none=True)
    peak = peak_bytes(subject.train)
    if peak is None:
        return None
    state = (v for values in subject.optimizer.state.values() for v in values.values())
    resident = itertools.chain(subject.model.parameters(), subject.model.buffers(), state)
    return peak + sum(tensor.nbytes for tensor in resident if isinstance(tensor, torch.Tensor))


def tuner_name(cfg: DictConfig) -> str:
    """The name of the config's tuner, which may be a class or a dotted name."""
    target = cfg.model.backbone.net.tuner._target_
    return getattr(target, "__name__", str(target)).rpartition(".")[2]


def _pace(times: Times, key: str, batch: int) -> tuple[str, str]:
    return pace(times[key], batch) if key in times else ("out of memory", "out of memory")
