"""Training and evaluation beside other busy processes, with and without the tools' thread settings.

Two worker processes run the demo's small model on synthetic pairs: one with OpenMP's own defaults, one with
:data:`ivtuning.threads.SETTINGS`, which every tool applies. They work in turns, alone and beside one or
two processes that keep a core busy. Both use as many threads as torch chooses.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TextIO

import torch

from ...backbones.trunk import find_trunk
from ...config import load_config
from ...data.synthetic.generate import generate
from ...engine import run
from ...errors import UserError
from ...threads import SETTINGS
from ...utils.heap import keep_freed_memory
from ..measures.timing import Times, interleaved, ratio, summary
from ..options import Options
from ..report import Listing, Result, Row
from .model import make_trainer

CONFIG = "configs/synthetic/ivtuning.py"
# Images evaluated in one timed run; the other kind of run is one training step.
IMAGES = 8
BUSY = (0, 1, 2)
# It ends when this process is gone, however that ended.
BUSY_LOOP = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""
WORKER = ["-m", "ivtuning.benchmark.parts.neighbor"]
# heading of a worker: what its environment sets
ENVIRONMENTS = {"OpenMP's defaults": {}, "tools' settings": SETTINGS}
WORK = {"step": "training step", "eval": "evaluation"}


def measure(options: Options) -> Result:
    """Rows neighbor_*: the slowdown beside busy processes. Facts: the tools' settings / the defaults, alone.

    With as many busy processes as cores, half of the machine is left to a worker: 2 is the fair ratio.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        generate(Path(folder, "synthetic"), train=8, val=IMAGES)
        workers = {
            name: stack.enter_context(worker(name, values, folder)) for name, values in ENVIRONMENTS.items()
        }
        busy = [stack.enter_context(paused_loop()) for _ in range(max(BUSY))]
        runs = {
            f"{name} {work} {count}": partial(work_beside, busy[:count], partial(ask, work))
            for count in BUSY
            for work in WORK
            for name, ask in workers.items()
        }
        times = interleaved(runs, options.repeats, "beside busy processes")
    settings = ", ".join(f"{key}={value}" for key, value in SETTINGS.items())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    result = Result(
        f"{CONFIG} with random weights on a CPU with {cores} cores; a run is one training step of batch 8, "
        f"or the evaluation of {IMAGES} images one by one; tools' settings: {settings}"
    )
    result.raw["seconds"] = summary(times)
    default, ours = ENVIRONMENTS
    for work in WORK:
        alone = ratio(times, f"{ours} {work} 0", f"{default} {work} 0")
        result.facts[f"neighbor_{work}_alone_over_defaults"] = alone.median
        for count in BUSY[1:]:
            mine, theirs = f"{ours} {work} {count}", f"{default} {work} {count}"
            slowdown, gain = ratio(times, theirs, f"{default} {work} 0"), ratio(times, theirs, mine)
            result.rows[f"neighbor_{work}_{count}"] = Row.of(
                ratio(times, mine, f"{ours} {work} 0"),
                note=f"with OpenMP's defaults {slowdown.median:.2f}, in {gain.median:.1f} x the time",
            )
    result.listings.append(_listing(times))
    return result


def serve(questions: TextIO, answers: TextIO) -> None:
    """Answer every line of `questions`, "step" or "eval", when that work is done; "ready" comes first."""
    overrides = ["train.init_checkpoint=", "train.device=cpu"]
    cfg = load_config(CONFIG, overrides)
    torch.manual_seed(0)
    model = run.build_model(cfg)
    trainer = make_trainer(cfg, model, find_trunk(model))
    print("ready", file=answers, flush=True)
    for question in questions:
        if question.strip() == "step":
            model.train()
            with trainer.storage:
                trainer.run_step()
        else:
            run.evaluate(cfg, model)
        print("done", file=answers, flush=True)


@contextlib.contextmanager
def worker(name: str, values: dict[str, str], datasets: str) -> Iterator[Callable[[str], None]]:
    """A process that runs :func:`serve`; yields the function that asks it for work and waits for the end."""
    kept = {k: v for k, v in os.environ.items() if k not in (*SETTINGS, "OMP_WAIT_POLICY")}
    paths = [str(Path(__file__).resolve().parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**kept, **values, "DETECTRON2_DATASETS": datasets, "PYTHONPATH": os.pathsep.join(paths)}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, *WORKER],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )

        def answer() -> None:
            if not process.stdout.readline():
                log.seek(0)
                last = next((line for line in reversed(log.read().splitlines()) if line.strip()), "no output")
                raise UserError(f"the worker with {name} stopped: {last}")

        def ask(work: str) -> None:
            process.stdin.write(f"{work}\n")
            process.stdin.flush()
            answer()

        try:
            answer()
            yield ask
        finally:
            process.kill()
            process.communicate()


@contextlib.contextmanager
def paused_loop() -> Iterator[subprocess.Popen]:
    """A process that keeps a core busy whenever it is not stopped; it starts stopped."""
    process = subprocess.Popen([sys.executable, "-c", BUSY_LOOP])
    try:
        process.send_signal(signal.SIGSTOP)
        yield process
    finally:
        process.kill()
        process.wait()


def work_beside(busy: Sequence[subprocess.Popen], work: Callable[[], None]) -> None:
    """Do `work` while the processes `busy` run."""
    for process in busy:
        process.send_signal(signal.SIGCONT)
    try:
        work()
    finally:
        for process in busy:
            process.send_signal(signal.SIGSTOP)


def _listing(times: Times) -> Listing:
    """Median seconds of every run, and its ratio to the same work alone."""
    lines = []
    for work, label in WORK.items():
        for name in ENVIRONMENTS:
            line = [label, name]
            for count in BUSY:
                key = f"{name} {work} {count}"
                slowdown = f" ({ratio(times, key, f'{name} {work} 0').median:.2f} x)" if count else ""
                line.append(f"{statistics.median(times[key]):.2f} s{slowdown}")
            lines.append(line)
    return Listing(["run", "threads", "alone", *(f"beside {count}" for count in BUSY[1:])], lines)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of libraries about each other
    keep_freed_memory()
    # Libraries print to stdout, which carries the answers: their output goes to stderr.
    with os.fdopen(os.dup(1), "w") as stdout:
        os.dup2(2, 1)
        serve(sys.stdin, stdout)
