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
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import IO

import torch
from omegaconf import DictConfig

from ..config import load_config
from ..data.modalities import MODALITIES
from ..engine import run
from ..engine.metrics_file import read_metrics
from ..engine.trainer import NonFiniteLoss
from ..errors import user_message
from ..utils.files import atomic_write, make_folder
from ..utils.progress import track
from . import charts, table
from .conditions import versions
from .jobs import RESULT, Job
from .models import ADAPTER, final, keep_adapter
from .options import Options
from .plan import Plan
from .summary import summarize, summarize_search


def compare(config: str, output: Path, overrides: Sequence[str] = (), options: Options | None = None) -> dict:
    """Run the jobs that have no result yet, and write results.json, table.md and charts into `output`.

    First come the runs that choose each row's rate, then all others. The results are written after every run.

    Args:
        config: a config whose tuner is IV-tuning.
        overrides: changes to every run's config; those of stem and tuner reach IV-tuning alone.

    Returns:
        What results.json holds: "conditions", "search" (see :func:`.summary.summarize_search`), "rows" (see
        :func:`.summary.summarize`) and "failed", for each run that failed one line.

    Raises:
        UserError: see :class:`.plan.Plan`.
    """
    plan = Plan(config, overrides, output, options or Options())
    searches = [job for key in plan.chosen for job in plan.search_jobs(key)]
    number = len(searches) + len(plan.chosen) * plan.finals_of_a_row
    make_folder(output)
    plan.write_parts()

    failed: dict[str, str] = {}
    results = _write(plan, failed)
    done = sum(job.result() is not None for job in [*searches, *_finals(plan)])
    print(f"{number} runs, {done} of them done before", flush=True)
    try:
        with track((), "runs", total=number - done) as bar:
            for searching in (True, False):
                jobs = searches if searching else _finals(plan)
                pending = [job for job in jobs if job.result() is None]
                if not searching:  # now it is known which rows have a rate, and which of their runs are done
                    bar.total = bar.n + len(pending)
                with contextlib.closing(_run_all(pending, plan.processes)) as ended:
                    for job, failure in ended:
                        bar.update()
                        if failure is not None:
                            failed[job.label] = failure
                            bar.write(f"error: {job.label}: {failure}", file=sys.stderr)
                        elif reason := (job.result() or {}).get("diverged"):
                            bar.write(f"{job.label} diverged: {reason}", file=sys.stderr)
                        results = _write(plan, failed)
    except BaseException:  # a stop leaves the charts of what has been run
        with contextlib.suppress(Exception):  # the first error is the one to see
            charts.draw(results, output)
        raise
    charts.draw(results, output)
    return results


def _finals(plan: Plan, asked: bool = True) -> list[Job]:
    """The jobs whose rates are known, by size and seed; those of earlier calls only without `asked`."""
    searches = summarize_search(plan)
    rates = {key: found["factor"] for key, found in searches.items() if found["factor"] is not None}
    if not plan.shared["search"]:
        rates = dict.fromkeys(plan.present)
    jobs = [job for key, factor in rates.items() for job in plan.final_jobs(key, factor)]
    jobs = [job for job in jobs if plan.asked(job) or not asked]
    return sorted(jobs, key=lambda job: (job.size or math.inf, job.seed))


def _write(plan: Plan, failed: dict[str, str]) -> dict:
    """Write results.json and table.md; returns what is in the former."""
    searches = summarize_search(plan)
    lost = {
        found["name"]: "every rate of its search diverged: add lower factors to --search"
        if all(found["diverged"])
        else f"no rate of its search has a figure ({plan.shared['metric']}): add other factors to --search"
        for key, found in searches.items()
        if key in plan.chosen
        and len(found["factors"]) == len(plan.shared["search"])
        and found["factor"] is None
    }
    results = {
        "conditions": plan.shared,
        "search": searches,
        "rows": summarize(plan, _finals(plan, asked=False)),
        "failed": failed | lost,
    }
    with atomic_write(plan.output / "results.json") as temp:
        temp.write_text(json.dumps(results, indent=2) + "\n")
    with atomic_write(plan.output / "table.md") as temp:
        temp.write_text(table.markdown(results) + "\n", encoding="utf-8")
    return results


def work(job: Job) -> None:
    """Train and evaluate, write adapter.safetensors and, last, result.json into the job's folder.

    The checkpoint is removed: base weights and the adapter file make up the model. A run that serves to
    choose a rate leaves no adapter. If its loss becomes infinite or NaN, its result says so: with the same
    rate it would diverge again. A run of an earlier call that lacks only the figures without each image is
    not trained again: its adapter is evaluated.

    Raises:
        NonFiniteLoss: another run diverges.
    """
    warnings.simplefilter("ignore")  # libraries warn about each other
    torch.set_num_threads(1)
    folder = Path(job.folder)
    cfg = load_config(job.config, job.overrides)
    facts: dict = {}
    base, adapter = cfg.train.init_checkpoint, folder / ADAPTER
    if base and adapter.is_file() and (earlier := job.result(complete=False)):
        earlier["figures"] |= _each_withheld(job, base, str(adapter))
        _write_result(folder, earlier)
        return
    (folder / RESULT).unlink(missing_ok=True)  # it would not fit the new adapter
    try:
        trained = run.train(cfg, progress=job.label, replace=True)
    except NonFiniteLoss as error:
        if not job.search:
            raise
        trained, facts = {}, {"diverged": str(error)}
    figures = {"none": _figures(trained)}
    if not job.search:
        facts = _keep_model(job, cfg, figures)
    for checkpoint in [*folder.glob("model_*.pth"), folder / "last_checkpoint"]:
        checkpoint.unlink(missing_ok=True)

    metrics = folder / "metrics.json"  # none of a run that diverged at once
    steps = read_metrics(metrics) if metrics.is_file() else {}
    times = [step["time"] for step in steps.values() if "time" in step]
    kept = ("row", "seed", "size", "factor", "rate", "identity", "processes", "command")
    result = {
        **{key: getattr(job, key) for key in kept},
        "figures": figures,
        "iterations": int(cfg.train.max_iter),
        "versions": versions(),
        "seconds_per_step": statistics.median(times) if times else None,
        **facts,
    }
    _write_result(folder, result)


def _write_result(folder: Path, result: dict) -> None:
    with atomic_write(folder / RESULT) as temp:
        temp.write_text(json.dumps(result, indent=2) + "\n")


def _each_withheld(job: Job, weights: str, adapter: str | None = None) -> dict[str, dict[str, float]]:
    """The model's figures without the visible and without the infrared image."""
    figures = {}
    for lost in MODALITIES:
        lacking = [*job.overrides, f"dataloader.test.mapper.drop={lost}", "model.fill_missing=mean"]
        cfg = load_config(job.config, lacking)
        figures[lost] = _figures(run.evaluate_checkpoint(cfg, weights, adapter))
    return figures


def _keep_model(job: Job, cfg: DictConfig, figures: dict) -> dict:
    """Write the trained model's adapter file; returns its counts. Adds figures without each image in turn."""
    if job.missing:
        figures |= _each_withheld(job, final(cfg))
    score = figures["none"].get(job.metric)
    said = {} if score is None else {job.metric.rpartition("/")[2]: f"{score:.2f}"}
    return keep_adapter(cfg, said)


def _figures(results: dict) -> dict[str, float]:
    """Nested results as {"bbox/AP": ...}; a figure without ground truth is NaN, which JSON lacks."""
    flat = {f"{task}/{name}": value for task, values in results.items() for name, value in values.items()}
    return {name: value for name, value in flat.items() if not math.isnan(value)}


def _run_all(jobs: Sequence[Job], processes: int) -> Generator[tuple[Job, str | None], None, None]:
    """Every job as it ends, with its failure as one line, if it failed."""
    for job in jobs:
        Path(job.folder).mkdir(parents=True, exist_ok=True)
    if processes == 1:
        yield from ((job, _run_here(job)) for job in jobs)
        return
    # The processes end when our end of their input is closed, which a stop does, and even a killed parent.
    theirs, ours = os.pipe()
    with open(theirs) as standard_input, ThreadPoolExecutor(processes) as pool, open(ours, "wb"):
        try:
            ends = {pool.submit(_run_apart, job, standard_input): job for job in jobs}
            for end in as_completed(ends):
                yield ends[end], end.result()
        finally:  # after a stop no further job starts
            pool.shutdown(wait=False, cancel_futures=True)


def _run_here(job: Job) -> str | None:
    with _open_log(job) as log:
        try:
            with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                work(job)
        except Exception as error:
            traceback.print_exc(file=log)
            line = user_message(error) or f"{type(error).__name__}: {error}".splitlines()[0]
            return f"{line}; see {log.name}"
    return None


def _run_apart(job: Job, standard_input: IO) -> str | None:
    command = [sys.executable, "-m", "ivtuning.comparison", json.dumps(dataclasses.asdict(job))]
    env = os.environ | {"OMP_NUM_THREADS": "1"}  # read once, before any code of ours
    with _open_log(job) as log:
        code = subprocess.run(command, stdin=standard_input, stdout=log, stderr=log, env=env).returncode
    if code == 0:
        return None
    lines = Path(log.name).read_text().splitlines()
    last = next((line for line in reversed(lines) if line.strip()), "no output")
    line = last.removeprefix("error: ") if code > 0 else f"ended by signal {-code}"
    return f"{line}; see {log.name}"


def _open_log(job: Job) -> IO:
    """The file for what a run prints; that of a run which is only evaluated again keeps its lines."""
    return open(Path(job.folder, "log.txt"), "a" if job.result(complete=False) else "w")
