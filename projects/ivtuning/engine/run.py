"""Training and evaluating the model of a config."""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Generator

import torch
from detectron2.config import instantiate
from detectron2.engine import default_setup, default_writers, hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.solver import LRMultiplier
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig
from torch import nn

from ..backbones.trunk import find_trunk
from ..checkpoint import load_weights
from ..checkpoint.checkpointer import Checkpointer
from ..errors import UserError, user_message
from ..utils.heap import keep_freed_memory
from ..utils.progress import track
from .hooks import EMA, BestCheckpoint, ProgressBar
from .optim import build_optimizer
from .parallel import check_parallel, init_distributed, parallelize, whole_parameters, wrap_ddp
from .parameters import count_parameters, describe_input, parameter_table
from .speed import check_speed, matching_precision, speed_up
from .trainer import Trainer

logger = logging.getLogger("ivtuning")


def setup(cfg: DictConfig, args: argparse.Namespace) -> None:
    """Join the process group, set up logs and seeds, and write config.yaml to `train.output_dir`.

    `args` are the command line's: `config_file`, a file that exists, and `eval_only`.
    """
    init_distributed()
    default_setup(cfg, args)
    setup_logger(cfg.train.output_dir, distributed_rank=comm.get_rank(), name="ivtuning")
    # Errors that a user can fix end with one line; detectron2's loop would log the whole stack before it.
    logging.getLogger("detectron2.engine.train_loop").addFilter(
        lambda record: not (record.exc_info and user_message(record.exc_info[1]))
    )


def build_model(cfg: DictConfig) -> nn.Module:
    """The model of `cfg`, on `train.device` ("auto": CUDA where there is one)."""
    device = cfg.train.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if torch.device(device).type == "cpu":
        keep_freed_memory()
    return instantiate(cfg.model).to(device)


def load_model(cfg: DictConfig, weights: str, adapter: str | None = None) -> nn.Module:
    """The model of `cfg` with the weights of a full checkpoint, or of base weights and an adapter file."""
    model = build_model(cfg)
    load_weights(model, weights, adapter)
    return model


def evaluate(cfg: DictConfig, model: nn.Module) -> dict:
    """Evaluate `model` on `dataloader.test`; returns nested results, on rank 0 alone ({} elsewhere)."""
    loader = track(instantiate(cfg.dataloader.test), "evaluating")
    with matching_precision(model):
        results = inference_on_dataset(model, loader, instantiate(cfg.dataloader.evaluator))
    if comm.is_main_process():
        print_csv_format(results)
    return results or {}


def evaluate_checkpoint(cfg: DictConfig, weights: str, adapter: str | None = None) -> dict:
    """Evaluate a full checkpoint, or base weights with an adapter file."""
    if not weights:
        raise UserError(
            "there is nothing to evaluate: give --weights (and --adapter), or train.init_checkpoint=FILE"
        )
    return evaluate(cfg, wrap_ddp(load_model(cfg, weights, adapter)))


def train(cfg: DictConfig, resume: bool = False, progress: str | None = None) -> dict:
    """Train the model of `cfg` and evaluate it.

    Args:
        resume: continue from the last checkpoint in `train.output_dir`, if there is one.
        progress: label of a progress bar that replaces detectron2's log lines.

    Returns:
        The nested results of the last evaluation.
    """
    options = cfg.train
    check_parallel(options.parallel, options.precision)
    check_speed(options)
    seed_all_rng(options.seed if options.seed >= 0 else None)  # for the initial weights of added parts
    model = build_model(cfg)
    place = find_trunk(model)
    checkpointer = Checkpointer(model, options.output_dir)
    resume = resume and checkpointer.has_checkpoint()
    if options.init_checkpoint and not resume:
        logger.info("%s", load_weights(model, options.init_checkpoint, strict=False, place=place))
    counts = count_parameters(model, place)
    if not (options.init_checkpoint or resume) and counts["groups"]["trunk"]["trained"] == 0:
        logger.warning("train.init_checkpoint is empty: the frozen trunk is RANDOM")
    logger.info("parameters\n%s\n%s", parameter_table(counts), describe_input(model, place))

    speed_up(model, place.trunk, options)
    parallel = parallelize(model, place.trunk, options.parallel, options.ddp)
    optimizer = build_optimizer(cfg.optimizer, model, place)
    batches = _batches(cfg)
    trainer = Trainer(
        parallel,
        batches,
        optimizer,
        precision=options.precision,
        gradient_accumulation=options.gradient_accumulation,
        clip_grad_norm=options.clip_grad_norm,
        seed=options.seed,
    )
    ema = EMA(model, options.ema_decay) if options.ema_decay else None
    checkpointer.add_checkpointable("trainer", trainer)
    results: dict = {}
    trainer.register_hooks(_hooks(cfg, trainer, checkpointer, ema, optimizer, results, progress))

    start = 0
    if resume:
        checkpointer.resume_or_load("", resume=True)
        start = trainer.iter + 1
    # The loader needs no more than a batch's position in the stream to go on from there.
    cfg.dataloader.train.start = start * options.gradient_accumulation
    # Left to the garbage collector, every worker of the loader would be waited for, for five seconds.
    with contextlib.closing(batches):
        trainer.train(start, options.max_iter)
    return results


def _batches(cfg: DictConfig) -> Generator[list[dict], None, None]:
    """Training batches. Their loader is built for the first one: a resumed run knows its start only then."""
    yield from instantiate(cfg.dataloader.train)


def _hooks(cfg, trainer, checkpointer, ema, optimizer, results: dict, progress: str | None) -> list:
    options = cfg.train

    def evaluation() -> dict:
        with ema.applied() if ema else contextlib.nullcontext(), whole_parameters(trainer.model):
            results.clear()
            results.update(evaluate(cfg, trainer.model))
        return results

    scheduler = LRMultiplier(optimizer, instantiate(cfg.lr_multiplier), options.max_iter)
    period = options.eval_period
    writers = default_writers(options.output_dir, options.max_iter) if comm.is_main_process() else []
    # All processes take part in saving; one of them removes old files.
    saving = {**options.checkpointer, **({} if comm.is_main_process() else {"max_to_keep": None})}
    if progress is not None:
        # The bar replaces the printed lines; metrics.json and TensorBoard stay.
        writers = writers[1:]
    return [
        hooks.IterationTimer(),
        hooks.LRScheduler(scheduler=scheduler),
        ema,
        hooks.EvalHook(period, evaluation),
        BestCheckpoint(checkpointer, options.best_metric, period, ema) if options.best_metric else None,
        hooks.PeriodicCheckpointer(checkpointer, **saving),
        ProgressBar(progress) if progress is not None else None,
        hooks.PeriodicWriter(writers, options.log_period) if writers else None,
    ]
