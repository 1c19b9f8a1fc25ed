"""Running the jobs of a comparison, each in a process of one thread.

A job leaves result.json in its folder, so that a comparison that was stopped continues where it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import torch

from ..checkpoint import save_adapter
from ..checkpoint.adapter import group_sizes
from ..config import load_config
from ..data.modalities import MODALITIES
from ..engine import run
from ..engine.parameters import count_parameters
from ..errors import UserError, nearest, user_message
from ..utils.files import atomic_write, make_folder
from ..utils.progress import track
from . import table
from .jobs import ROWS, Job, conditions, plan

COUNTS = ("backbone_trainable", "backbone_base", "ratio_of_base", "ratio_of_total")


def compare(
    config: str,
    output: Path,
    overrides: Sequence[str] = (),
    seeds: int = 3,
    only: Sequence[str] = (),
    processes: int | None = None,
) -> dict:
    """Run the jobs that have no result yet, and write results.json and table.md into `output`.

    Args:
        config: a detection config whose tuner is IV-tuning.
        overrides: changes to every run's config; those of stem and tuner reach IV-tuning alone.
        seeds: how many, from 0.
        only: keys of ROWS to run, () = all. The results hold every finished run of this config.
        processes: runs at a time, None = one a core; 1 runs them in this process.

    Returns:
        What results.json holds: "conditions", "rows" (see :func:`.table.summarize`) and "failed", for each
        run that failed one line.

    Raises:
        UserError: no such method, a number below 1; see :func:`.jobs.conditions`.
    """
    for key in only:
        if key not in ROWS:
            raise UserError(f"no method {key!r}{nearest(key, ROWS)}; there are {', '.join(ROWS)}")
    cores = os.cpu_count() or 1
    processes = cores if processes is None else processes
    if seeds < 1 or processes < 1:
        raise UserError(f"seeds={seeds}, processes={processes}: give 1 or more of each")
    shared = conditions(config, overrides)
    jobs = plan(shared, overrides, seeds, output, processes)
    chosen = [job for job in jobs if not only or job.row in only]
    pending = [job for job in chosen if job.result() is None]
    make_folder(output)
    print(f"{len(chosen)} runs, {len(chosen) - len(pending)} of them done before", flush=True)

    failed = {}
    with track(_run_all(pending, processes), "runs", total=len(pending)) as bar:
        for job, failure in bar:
            if failure is not None:
                failed[job.label] = failure
                bar.write(f"error: {job.label}: {failure}", file=sys.stderr)
    finished = [result for job in jobs if (result := job.result())]
    shared |= {"seeds": seeds, "cores": cores}
    results = {"conditions": shared, "rows": table.summarize(finished), "failed": failed}
    with atomic_write(output / "results.json") as temp:
        temp.write_text(json.dumps(results, indent=2) + "\n")
    with atomic_write(output / "table.md") as temp:
        temp.write_text(table.markdown(results) + "\n", encoding="utf-8")
    return results


def work(job: Job) -> None:
    """Train and evaluate, write adapter.safetensors and, last, result.json into the job's folder.

    The checkpoint is removed: base weights and the adapter file make up the model.
    """
    warnings.simplefilter("ignore")  # libraries warn about each other
    torch.set_num_threads(1)
    folder = Path(job.folder)
    cfg = load_config(job.config, job.overrides)
    figures = {"none": run.train(cfg, progress=job.label, replace=True)["bbox"]}
    model = run.load_model(cfg, str(folder / "model_final.pth"))
    for lost in MODALITIES if ROWS[job.row].missing else ():
        lacking = [*job.overrides, f"dataloader.test.mapper.drop={lost}", "model.fill_missing=mean"]
        other = load_config(job.config, lacking)
        figures[lost] = run.evaluate(other, run.load_model(other, str(folder / "model_final.pth")))["bbox"]
    adapter = folder / "adapter.safetensors"
    save_adapter(model, adapter, metadata={"AP": f"{figures['none']['AP']:.2f}"}, config=cfg)
    for checkpoint in [*folder.glob("model_*.pth"), folder / "last_checkpoint"]:
        checkpoint.unlink(missing_ok=True)

    counts = count_parameters(model)
    steps = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    times = [step["time"] for step in steps if "time" in step]
    result = {
        "method": job.row,
        "seed": job.seed,
        "identity": job.identity,
        # A figure without ground truth is NaN, which JSON lacks.
        "figures": {
            lost: {k: v for k, v in values.items() if not math.isnan(v)} for lost, values in figures.items()
        },
        **{key: counts[key] for key in COUNTS},
        "adapter_mb": group_sizes(adapter)["backbone"] / 1e6,
        "seconds_per_step": statistics.median(times) if times else None,
        "device": next(model.parameters()).device.type,
        "processes": job.processes,
    }
    with atomic_write(folder / "result.json") as temp:
        temp.write_text(json.dumps(result, indent=2) + "\n")


def _run_all(jobs: Sequence[Job], processes: int) -> Iterator[tuple[Job, str | None]]:
    """Every job as it ends, with its failure as one line, if it failed."""
    for job in jobs:
        Path(job.folder).mkdir(parents=True, exist_ok=True)
    if processes == 1:
        yield from ((job, _run_here(job)) for job in jobs)
        return
    with ThreadPoolExecutor(processes) as pool:
        ends = {pool.submit(_run_apart, job): job for job in jobs}
        try:
            for end in as_completed(ends):
                yield ends[end], end.result()
        finally:  # after a stop from the keyboard no further job starts
            pool.shutdown(wait=False, cancel_futures=True)


def _run_here(job: Job) -> str | None:
    with open(Path(job.folder, "log.txt"), "w") as log:
        try:
            with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                work(job)
        except Exception as error:
            traceback.print_exc(file=log)
            line = user_message(error) or f"{type(error).__name__}: {error}".splitlines()[0]
            return f"{line}; see {log.name}"
    return None


def _run_apart(job: Job) -> str | None:
    command = [sys.executable, "-m", "ivtuning.comparison", json.dumps(dataclasses.asdict(job))]
    env = os.environ | {"OMP_NUM_THREADS": "1"}  # read once, before any code of ours
    file = Path(job.folder, "log.txt")
    with (
        open(file, "w") as log,
        # The process ends when this end of its input is closed, which even a killed parent does.
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=env) as process,
    ):
        code = process.wait()
    if code == 0:
        return None
    last = next((line for line in reversed(file.read_text().splitlines()) if line.strip()), "no output")
    line = last.removeprefix("error: ") if code > 0 else f"ended by signal {-code}"
    return f"{line}; see {file}"
