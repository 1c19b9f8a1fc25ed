"""Training and evaluating the model of a config."""

from __future__ import annotations

import argparse
import contextlib
import logging
import shlex
from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.solver import LRMultiplier
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from omegaconf import DictConfig
from torch import nn

from ..backbones.trunk import Trunk, find_trunk
from ..checkpoint import load_weights
from ..checkpoint.checkpointer import AVERAGED, Checkpointer
from ..config import build, set_names
from ..data.own import public_name
from ..errors import UserError
from ..export.meta_arch import OnnxMetaArch
from ..export.runner import read_metadata
from ..utils.files import make_folder, remove_empty
from ..utils.heap import keep_freed_memory
from ..utils.progress import track
from .checks import check_evaluation, check_files, check_onnx, check_run, find_device
from .folder import RESULTS, RunFolder, run_folder, write_results
from .hooks import EMA, BestCheckpoint, ProgressBar
from .logs import start_log, versions, write_log
from .metrics import Metrics
from .optim import build_optimizer
from .parallel import init_distributed, on_main, parallelize, share_buffers, whole_parameters
from .parameters import count_parameters, describe_input, parameter_table
from .saving import Checkpoints
from .schedule import describe
from .signals import Interruptible, StopRequest
from .speed import matching_precision, speed_up
from .trainer import Trainer

logger = logging.getLogger("ivtuning")


def setup(cfg: DictConfig, args: argparse.Namespace) -> None:
    """Join the process group, start the log, and set up seeds. No file is written.

    `args` are the command line's: `config_file` and `overrides`.
    """
    init_distributed(find_device(cfg.train.device))
    start_log()
    logger.info("Rank of current process: %d. World size: %d", comm.get_rank(), comm.get_world_size())
    logger.info("%s", versions())
    logger.info("config %s %s", args.config_file, shlex.join(map(str, args.overrides)))
    seed = cfg.train.seed
    seed_all_rng(seed + comm.get_rank())


def build_model(cfg: DictConfig) -> nn.Module:
    """The model of `cfg`, on `train.device` ("auto": CUDA where there is one)."""
    device = find_device(cfg.train.device)
    if device.type == "cpu":
        keep_freed_memory()
    model = build(cfg, "model").to(device)
    kept = torch.float32 if cfg.train.get("residual_dtype") == "fp32" else torch.bfloat16
    for trunk in (module for module in model.modules() if isinstance(module, Trunk)):
        trunk.residual_dtype = kept
    return model


def load_model(cfg: DictConfig, weights: str, adapter: str | None = None) -> nn.Module:
    """The model of `cfg` with the weights of a full checkpoint, or of base weights and an adapter file."""
    check_files(*(file for file in (weights, adapter) if "://" in str(file)))  # before the model is built
    model = build_model(cfg)
    load_weights(model, weights, adapter, cfg_model=cfg.model)
    return model


def evaluate(cfg: DictConfig, model: nn.Module, stop: StopRequest | None = None) -> dict:
    """Evaluate `model` on `dataloader.test`; returns nested results, on rank 0 alone ({} elsewhere).

    Args:
        stop: ends it between two batches. Of several processes each would stop at another batch, so that they
            go on.
    """
    loader = track(build(cfg, "dataloader.test"), "evaluating")
    if stop is not None and comm.get_world_size() == 1:
        loader = Interruptible(loader, stop)
    with matching_precision(model):
        results = inference_on_dataset(model, loader, build(cfg, "dataloader.evaluator"))
    if comm.is_main_process():
        print_csv_format(results)
    return results or {}


def evaluate_checkpoint(cfg: DictConfig, weights: str, adapter: str | None = None) -> dict:
    """Evaluate a full checkpoint, or base weights with an adapter file."""
    check_evaluation(cfg, weights, adapter)
    # Not in DDP, whose forward passes wait for other processes, which may have fewer images.
    return evaluate(cfg, load_model(cfg, weights, adapter))


def evaluate_onnx(cfg: DictConfig, file: str) -> dict:
    """Evaluate a file of tools/export_model.py, on `train.device`."""
    check_onnx(cfg, file, read_metadata(file))
    return evaluate(cfg, OnnxMetaArch(file, cfg.train.device))


def record_evaluation(
    cfg: DictConfig, weights: str, adapter: str | None = None, onnx: str | None = None
) -> dict:
    """Like :func:`evaluate_checkpoint`; the results go to results.json in `train.output_dir`, with the log.

    Args:
        onnx: an exported file, which is evaluated in the place of weights.

    Raises:
        UserError: nothing can be written there, which is found before the evaluation.
    """
    evaluate_it = (
        partial(evaluate_onnx, cfg, onnx) if onnx else partial(evaluate_checkpoint, cfg, weights, adapter)
    )
    facts = {"onnx": onnx} if onnx else {"weights": weights, "adapter": adapter}
    facts["test"] = public_name(set_names(cfg, "test"))
    folder = Path(cfg.train.output_dir) if cfg.train.output_dir else None
    if folder is None:
        return evaluate_it()
    new = on_main(lambda: make_folder(folder))
    try:
        results = evaluate_it()
        if comm.is_main_process():
            write_log(folder)
            write_results(folder, results, **facts)
            logger.info("results: %s", folder / RESULTS)
    finally:
        remove_empty(new or [])
    return results


def train(cfg: DictConfig, resume: bool = False, progress: str | None = None, replace: bool = False) -> dict:
    """Train the model of `cfg` and evaluate it.

    The folder `train.output_dir` stays as it is until the first step is done: a run that fails before that
    leaves nothing behind.

    Args:
        resume: continue from the last checkpoint in `train.output_dir`, if there is one.
        progress: label of a progress bar that replaces detectron2's log lines.
        replace: take the place of a run in `train.output_dir`, which is otherwise refused.

    Returns:
        The nested results of the last evaluation.
    """
    with run_folder(cfg.train.output_dir, resume, replace) as folder, StopRequest() as stop:
        dataset = check_run(cfg, resume)
        return _train(cfg, dataset, folder, stop, resume, progress)


def _train(
    cfg: DictConfig,
    dataset: Sequence[dict] | None,
    folder: RunFolder,
    stop: StopRequest,
    resume: bool,
    progress: str | None,
) -> dict:
    options = cfg.train
    torch.backends.cudnn.benchmark = options.cudnn_benchmark
    seed_all_rng(options.seed)  # for the initial weights of added parts
    model = build_model(cfg)
    place = find_trunk(model)
    checkpointer = Checkpointer(model, options.output_dir)
    resume = resume and checkpointer.has_checkpoint()
    if options.init_checkpoint and not resume:
        logger.info(
            "%s", load_weights(model, options.init_checkpoint, strict=False, place=place, cfg_model=cfg.model)
        )
    counts = count_parameters(model, place)
    if not (options.init_checkpoint or resume) and counts["groups"]["trunk"]["trained"] == 0:
        logger.warning("train.init_checkpoint is empty: the frozen trunk is RANDOM")
    logger.info("parameters\n%s\n%s", parameter_table(counts), describe_input(model, place))

    speed_up(model, place.trunk, options)
    parallel = parallelize(model, place.trunk, options.parallel, options.ddp)
    optimizer = build_optimizer(cfg.optimizer, model, place)
    batches = _batches(cfg, dataset, lambda: trainer.start_iter)
    trainer = Trainer(
        parallel,
        batches,
        optimizer,
        precision=options.precision,
        gradient_accumulation=options.gradient_accumulation,
        clip_grad_norm=options.clip_grad_norm,
        seed=options.seed,
        stop=stop,
    )
    ema = EMA(model, options.ema_decay) if options.ema_decay else None
    checkpointer.add_checkpointable("trainer", trainer)
    metrics = Metrics(folder, options.log_period, printed=progress is None, wandb=options.wandb)
    best = (
        BestCheckpoint(checkpointer, options.best_metric, options.eval_period, ema)
        if options.best_metric
        else None
    )
    results: dict = {}
    trainer.register_hooks(
        _hooks(cfg, folder, trainer, checkpointer, ema, optimizer, results, best, metrics, progress)
    )

    start = 0
    if resume:
        checkpointer.resume()
        start = trainer.iter + 1
        if start > options.max_iter:
            raise UserError(
                f"{checkpointer.get_checkpoint_file()} has {start} iterations behind it, more than "
                f"train.max_iter={options.max_iter}: raise that, or give another train.output_dir"
            )
        if best:
            best.read_record()
        written = on_main(metrics.read) or {}
        if comm.all_gather(start == options.max_iter and start in written)[0]:
            logger.info(
                "the run in %s is finished (%d iterations), its results are in %s; a larger train.max_iter "
                "would go on",
                folder.path,
                start,
                folder.path / RESULTS,
            )
            return _nested(written.get(start, {}))
    if comm.get_world_size() == 1:
        stop.check()
    # Left to the garbage collector, every worker of the loader would be waited for, for five seconds.
    with contextlib.closing(batches):
        trainer.train(start, options.max_iter)
    return results


def _nested(line: dict) -> dict:
    """The results of an evaluation from its line of metrics: {"bbox": {"AP": ...}} from {"bbox/AP": ...}."""
    results: dict = {}
    for key, value in line.items():
        task, slash, name = key.partition("/")
        if slash:
            results.setdefault(task, {})[name] = value
    return results


def _batches(
    cfg: DictConfig, dataset: Sequence[dict] | None, start: Callable[[], int]
) -> Generator[list[dict], None, None]:
    """Training batches of `dataset`, or of what the config's loader reads.

    Their loader is built for the first one: a resumed run knows its start only then.
    """
    # The loader needs no more than a batch's position in the stream to go on from there.
    known: dict[str, Any] = {"start": start() * cfg.train.gradient_accumulation}
    if dataset is not None:
        known["dataset"] = dataset
    yield from build(cfg, "dataloader.train", **known)


def _hooks(
    cfg, folder, trainer, checkpointer, ema, optimizer, results: dict, best, metrics, progress: str | None
) -> list:
    options = cfg.train

    def evaluation() -> dict:
        trainer.settle()
        share_buffers(trainer.model)
        with ema.applied() if ema else contextlib.nullcontext(), whole_parameters(trainer.model):
            results.clear()
            # Not in DDP, as in evaluate_checkpoint.
            results.update(evaluate(cfg, getattr(trainer.model, "module", trainer.model), trainer.stop))
        return results

    def begin(trainer: Trainer) -> None:
        folder.begin(cfg)

    def finish(trainer: Trainer) -> None:
        if not trainer.finished:
            return
        begin(trainer)  # where no step was left to do
        if ema:  # what was evaluated, which the run's checkpoints hold for a resumed run alone
            with ema.applied():
                checkpointer.save_model(AVERAGED.removesuffix(".pth"), iteration=trainer.max_iter - 1)
            logger.info("the results are of the averaged weights, which are in %s", AVERAGED)
        if comm.is_main_process():
            write_results(folder.path, results, iterations=trainer.max_iter)
            logger.info("results: %s", folder.path / RESULTS)

    schedule = build(cfg, "lr_multiplier")
    logger.info("learning rate %g: %s; %d iterations", cfg.optimizer.lr, describe(schedule), options.max_iter)
    scheduler = LRMultiplier(optimizer, schedule, options.max_iter)
    # In this order a step ends: what is measured is written, and then a checkpoint knows all of it.
    return [
        hooks.IterationTimer(),
        hooks.CallbackHook(after_step=begin),
        hooks.LRScheduler(scheduler=scheduler),
        ema,
        ProgressBar(progress) if progress is not None else None,
        hooks.EvalHook(options.eval_period, evaluation),
        best,
        hooks.CallbackHook(after_train=finish),
        metrics,
        Checkpoints(checkpointer, **options.checkpointer),
    ]
