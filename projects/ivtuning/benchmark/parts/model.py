"""A config's whole model: training and inference, against full fine-tuning of the same one."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from detectron2.config import LazyCall, instantiate
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ...backbones.stems import PromptStem, SumStem
from ...config import load_config
from ...engine.parameters import count_parameters
from ...engine.run import build_model
from ...engine.speed import check_speed, speed_up
from ...engine.trainer import PRECISIONS, Trainer
from ...errors import UserError
from ...tuning import Full
from ..measures.memory import peak_bytes
from ..measures.out_of_memory import fitting
from ..measures.shares import shares
from ..measures.timing import Times, interleaved, summary
from ..options import Options
from ..report import Found, Listing, Row, pace
from ..subjects.batches import OBJECTS, random_batch

SIZE = (640, 640)
# Rounds of training that are not counted: a CPU's heap grows to its final size in them.
WARMUP = 3
# Key in shares.py: head of the column.
PARTS = {"backbone": "backbone's forward", "matching": "matching"}
HEAD = ["method", "ms a step", "images/s in training", "peak GB", "inference images/s", "trained parameters"]


@dataclass
class Subject:
    """A model, and what is measured of it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    train: Callable[[], None]
    infer: Callable[[], None]


def measure(options: Options) -> Found:
    """Rows model_*, and beside them seconds, bytes and shares of a step.

    Weights are random and learn nothing: the learning rates are 0, which leaves the arithmetic as it is.
    """
    size = options.size or SIZE
    cfg = load_config(options.config, options.overrides)
    check_speed(cfg.train)
    torch.backends.cudnn.benchmark = cfg.train.cudnn_benchmark  # as training sets it
    configs = {"config": cfg, "full": full_twin(cfg)}
    subjects = fitting({key: partial(_subject, c, size, options.batch) for key, c in configs.items()})

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
    found = Found(
        f"{options.config}{changed}, {size[0]} x {size[1]} px, batch {options.batch}, "
        f"{cfg.train.precision} in training and inference, {OBJECTS} random boxes an image; full: the same "
        "with tuner Full and SumStem for PromptStem; peak: with weights, gradients and the optimizer's state"
    )
    trained = {key: count_parameters(s.model)["model_trainable"] for key, s in subjects.items()}
    found.raw |= {"step_seconds": summary(training), "infer_seconds": summary(inference)}
    found.raw |= {"peak_bytes": peaks, "shares": parts, "trained": trained}
    found.rows["model_step_over_full"] = Row.between(training, "config", "full")
    found.rows["model_infer_over_full"] = Row.between(inference, "config", "full")
    if torch.cuda.is_available():
        found.rows["model_peak_over_full"] = Row.of_bytes(peaks, "config", "full")
    else:
        found.rows["model_peak_over_full"] = Row(note="on CUDA only")
    lines = [
        [_called(configs[key]), *_pace(training, key, options.batch)]
        + [f"{peaks[key] / 1e9:.2f}" if key in peaks else "", _pace(inference, key, options.batch)[1]]
        + [f"{trained[key]:,}" if key in trained else ""]
        + [f"{parts[key][part]:.3f}" if part in parts.get(key, {}) else "" for part in PARTS]
        for key in configs
    ]
    found.listings.append(Listing([*HEAD, *PARTS.values()], lines))
    return found


def full_twin(cfg: DictConfig) -> DictConfig:
    """The same config with everything in the trunk trained.

    Infrared stays where the config has it, but beside no prompts: its patch embedding is added to visible's.

    Raises:
        UserError: the config has no trunk at model.backbone.net.
    """
    twin = copy.deepcopy(cfg)
    net = OmegaConf.select(twin, "model.backbone.net")
    if net is None:
        raise UserError("the config has no model.backbone.net: its trunk's place is there")
    if isinstance(instantiate(net.stem), PromptStem):
        net.stem = LazyCall(SumStem)()
    net.tuner = LazyCall(Full)()
    return twin


def _subject(cfg: DictConfig, size: tuple[int, int], batch: int) -> Subject:
    """Model, optimizer and step as :func:`..engine.run.train` makes them, on one random batch."""
    options = cfg.train
    torch.manual_seed(0)
    model = build_model(cfg)
    samples = random_batch(model, size, batch)
    speed_up(model, options)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    trainer = Trainer(
        model,
        itertools.repeat(samples),
        optimizer,
        precision=options.precision,
        clip_grad_norm=options.clip_grad_norm,
        seed=options.seed,
    )
    trainer.iter, trainer.storage = 0, EventStorage()
    dtype = PRECISIONS[options.precision]

    def train() -> None:
        with trainer.storage:  # where heads look for it
            trainer.run_step()

    def infer() -> None:
        with torch.no_grad(), torch.autocast(trainer.device.type, dtype, enabled=dtype is not None):
            model(samples)

    return Subject(model, optimizer, train, infer)


def _peak(subject: Subject) -> int | None:
    """Bytes of a training step with all that the model holds between steps; None without CUDA."""
    subject.optimizer.zero_grad(set_to_none=True)
    peak = peak_bytes(subject.train)
    if peak is None:
        return None
    state = (v for values in subject.optimizer.state.values() for v in values.values())
    held = itertools.chain(subject.model.parameters(), subject.model.buffers(), state)
    return peak + sum(tensor.nbytes for tensor in held if isinstance(tensor, torch.Tensor))


def _called(cfg: DictConfig) -> str:
    """The tuner's name in the config, where it may be a class or a dotted name."""
    target = cfg.model.backbone.net.tuner._target_
    return getattr(target, "__name__", str(target)).rpartition(".")[2]


def _pace(times: Times, key: str, batch: int) -> tuple[str, str]:
    return pace(times[key], batch) if key in times else ("out of memory", "out of memory")
