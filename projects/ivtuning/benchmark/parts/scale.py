"""One process against several under DDP: samples per second, the all-reduce's share, and its bytes."""

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

from ...backbones.stems import PromptStem, SumStem
from ...errors import UserError
from ...tuning import Full, IVTuning
from ..measures.timing import interleaved, ratio, summary
from ..options import Options
from ..report import Found, Row
from ..subjects.trunks import build, usual_size
from .step import training_step


def measure(options: Options) -> Found:
    """Rows scale_*. Every process has the whole batch: the work grows with the processes.

    The share is that of a step which waits for the all-reduce over one without it, so what overlaps with the
    backward pass does not count.

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
    found = Found(
        f"{options.describe(name, size)} for each process; "
        + ("NCCL, one device each" if cuda else "gloo, one thread each")
    )
    # (processes, threads); on a CPU also one process with as many threads as the others have together
    cases = [(1, 1), (processes, 1)] if cuda else [(1, 1), (1, processes), (processes, 1)]
    runs = found.raw["runs"] = [_launch(options, name, size, *case) for case in cases]
    one, many = runs[0], runs[-1]
    note = f"{processes} processes; full {_gain(many, one, 'full'):.2f}"
    if not cuda:
        note += f"; 1 process, {processes} threads: {_gain(runs[1], one, 'iv'):.2f}"
    found.rows["scale_speedup"] = Row(_gain(many, one, "iv"), note=note)
    share, bytes_ = many["share"], many["bytes"]
    found.rows["scale_reduce_share"] = Row(
        share["iv"][0], tuple(share["iv"][1:]), note=f"full {share['full'][0]:.3f}"
    )
    found.rows["scale_bytes_ratio"] = Row(
        bytes_["iv"] / bytes_["full"], note=f"{bytes_['iv'] / 1e6:.2f} MB of {bytes_['full'] / 1e6:,.2f} MB"
    )
    return found


def _gain(run: dict[str, Any], one: dict[str, Any], kind: str) -> float:
    return run["samples_per_second"][kind] / one["samples_per_second"][kind]


def _launch(options: Options, name: str, size: tuple[int, int], processes: int, threads: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        # A forked process starts at once, and CUDA does not survive it.
        method = "spawn" if torch.cuda.is_available() else "fork"
        arguments = processes, threads, options, name, size, folder
        start_processes(_process, arguments, nprocs=processes, start_method=method)
        found = json.loads(Path(folder, "found.json").read_text())
    return {"processes": processes, "threads": threads, **found}


def _process(
    rank: int, processes: int, threads: int, options: Options, name: str, size: tuple[int, int], folder: str
) -> None:
    """One of the processes; the first one writes what was found."""
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
    x = options.pair(size)
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
    found: dict[str, Any] = {"seconds": summary(times), "bytes": bytes_}
    found["samples_per_second"] = {
        kind: processes * options.batch / found["seconds"][kind]["median"] for kind in ("iv", "full")
    }
    if processes > 1:
        shares = {kind: ratio(times, f"{kind}_alone", kind) for kind in bytes_}
        found["share"] = {kind: [1 - r.median, 1 - r.high, 1 - r.low] for kind, r in shares.items()}
    if rank == 0:
        Path(folder, "found.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def _together(step: Callable[[], None]) -> Callable[[], None]:
    """A step ends for all when the slowest has made it."""

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
    """Bytes of gradients that a step hands to the all-reduce, counted where DDP hands them over."""
    sizes: list[int] = []

    def hook(state, bucket):  # annotated, it would have to be by types and not by their names
        sizes.append(bucket.buffer().nbytes)
        return allreduce_hook(state, bucket)

    trunk.register_comm_hook(None, hook)
    step()
    return sum(sizes)
