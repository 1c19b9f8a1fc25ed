"""Several processes under DDP, against one: samples per second, the all-reduce's share, and its bytes."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.multiprocessing import start_processes
from torch.nn.parallel import DistributedDataParallel

from ...errors import UserError
from ...tuning import Full, IVTuning
from ...tuning.stems import PromptStem, SumStem
from ..measures.timing import interleaved, ratio, summary
from ..options import Options
from ..report import Result, Row
from ..subjects.trunks import build, usual_size
from .step import training_step

FILE = "measured.json"


def measure(options: Options) -> Result:
    """Rows distributed_*. Every process has a whole batch, so the work grows with their number.

    The all-reduce's share compares a step with it to a step without it; what overlaps with the backward pass
    does not count.

    Raises:
        UserError: more processes than CUDA devices.
    """
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    processes = options.processes or cuda or 2
    if processes < 2 or (cuda and processes > cuda):
        raise UserError(
            f"--processes {processes}: give 2 or more{f', of {cuda} CUDA devices here' if cuda else ''}"
        )
    name = options.trunk or "vitdet_t"
    size = options.size or usual_size(name)
    result = Result(
        f"{options.describe(name, size)} for each process; "
        + ("NCCL, one device each" if cuda else "gloo, one thread each")
    )
    # (processes, threads); on a CPU also one process that has as many threads as all the others together
    cases = [(1, 1), (processes, 1)] if cuda else [(1, 1), (1, processes), (processes, 1)]
    runs = result.raw["runs"] = [_launch(options, name, size, *case) for case in cases]
    one, many = runs[0], runs[-1]
    note = f"{processes} processes; full {_gain(many, one, 'full'):.2f}"
    if not cuda:
        note += f"; 1 process, {processes} threads: {_gain(runs[1], one, 'iv'):.2f}"
    result.rows["distributed_speedup"] = Row(_gain(many, one, "iv"), note=note)
    share, bytes_ = many["share"], many["bytes"]
    result.rows["distributed_reduce_share"] = Row(
        share["iv"][0], tuple(share["iv"][1:]), note=f"full {share['full'][0]:.3f}"
    )
    result.rows["distributed_bytes_ratio"] = Row(
        bytes_["iv"] / bytes_["full"], note=f"{bytes_['iv'] / 1e6:.2f} MB of {bytes_['full'] / 1e6:,.2f} MB"
    )
    return result


def _gain(run: dict[str, Any], one: dict[str, Any], kind: str) -> float:
    return run["samples_per_second"][kind] / one["samples_per_second"][kind]


def _launch(options: Options, name: str, size: tuple[int, int], processes: int, threads: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        # A forked process starts at once, but CUDA does not survive a fork.
        method = "spawn" if torch.cuda.is_available() else "fork"
        arguments = processes, threads, options, name, size, folder
        start_processes(_process, arguments, nprocs=processes, start_method=method)
        measured = json.loads(Path(folder, FILE).read_text())
    return {"processes": processes, "threads": threads, **measured}


def _process(
    rank: int, processes: int, threads: int, options: Options, name: str, size: tuple[int, int], folder: str
) -> None:
    """One of the processes. The first one writes the measurements to FILE in `folder`."""
    os.environ["RANK"] = str(rank)  # as torchrun does: one progress bar
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(rank)
    ddp = dict(device_ids=[rank] if cuda else None, broadcast_buffers=False)
    dist.init_process_group(
        "nccl" if cuda else "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=processes
    )
    x = options.random_pairs(size)
    runs: dict[str, Callable[[], None]] = {}
    bytes_: dict[str, int] = {}
    for kind, stem, tuner in (("iv", PromptStem(), IVTuning()), ("full", SumStem(), Full())):
        trunk = build(name, stem, tuner, options.depth, device=options.device)
        if processes > 1:
            trunk = DistributedDataParallel(trunk, **ddp)
            bytes_[kind] = _count_bytes(trunk, training_step(trunk, x, options))
        step = training_step(trunk, x, options)
        runs[kind] = _together(step)
        if processes > 1:
            runs[f"{kind}_alone"] = _together(_without_reduction(trunk, step))
    times = interleaved(runs, options.repeats, f"{processes} x {threads} threads")
    measured: dict[str, Any] = {"seconds": summary(times), "bytes": bytes_}
    measured["samples_per_second"] = {
        kind: processes * options.batch / measured["seconds"][kind]["median"] for kind in ("iv", "full")
    }
    if processes > 1:
        shares = {kind: ratio(times, f"{kind}_alone", kind) for kind in bytes_}
        measured["share"] = {kind: [1 - r.median, 1 - r.high, 1 - r.low] for kind, r in shares.items()}
    if rank == 0:
        Path(folder, FILE).write_text(json.dumps(measured))
    dist.destroy_process_group()


def _together(step: Callable[[], None]) -> Callable[[], None]:
    """The step with a barrier after it: it ends for all processes with the slowest one."""

    def run() -> None:
        step()
        dist.barrier()

    return run


def _without_reduction(trunk: DistributedDataParallel, step: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        with trunk.no_sync():
            step()

    return run


def _count_bytes(trunk: DistributedDataParallel, step: Callable[[], None]) -> int:
    """Bytes of gradients that a step gives to the all-reduce, counted in DDP's communication hook."""
    sizes: list[int] = []

    def hook(state, bucket):  # without annotations: DDP accepts types only, not their names as strings
        sizes.append(bucket.buffer().nbytes)
        return allreduce_hook(state, bucket)

    trunk.register_comm_hook(None, hook)
    step()
    return sum(sizes)
