"""The folder of a run: whose it is, and when it changes."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig
from detectron2.utils import comm
from omegaconf import DictConfig

from ..checkpoint.checkpointer import AVERAGED, BEST, run_checkpoints
from ..errors import UserError
from ..utils.files import atomic_write, make_folder, remove_empty, remove_temporaries
from ..utils.locks import FolderLock
from .logs import write_log
from .parallel import on_main

RESULTS = "results.json"
METRICS = "metrics.json"


class RunFolder:
    """A run's folder. It stays as it was until :meth:`begin`, when all checks have passed.

    Attributes:
        path (Path): of the folder.
        begun (bool): whether this process has begun to change it.
    """

    def __init__(self, path: Path, replace: bool):
        self.path, self._replace = path, replace
        self.begun = False

    def begin(self, cfg: DictConfig) -> None:
        """Write config.yaml and the log, and remove what a killed process left; once."""
        if self.begun:
            return
        self.begun = True
        if comm.is_main_process():
            remove_temporaries(self.path)
            if self._replace:
                (self.path / RESULTS).unlink(missing_ok=True)
                for file in [*_files_of_a_run(self.path), *self.path.glob("events.out.tfevents.*")]:
                    file.unlink()
                shutil.rmtree(self.path / "wandb", ignore_errors=True)
            with atomic_write(self.path / "config.yaml") as temp, _errors_of_writing():
                LazyConfig.save(cfg, str(temp))
            # LazyConfig writes what YAML cannot hold, such as a lambda, to a second file.
            if (pickled := Path(f"{temp}.pkl")).is_file():
                os.replace(pickled, self.path / "config.yaml.pkl")
        write_log(self.path)


@contextlib.contextmanager
def _errors_of_writing() -> Iterator[None]:
    """Inside, LazyConfig raises the errors of a disk, which it would otherwise log with their stack."""

    def raise_again(record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], OSError):
            raise record.exc_info[1]
        return True

    log = logging.getLogger("detectron2.config.lazy")
    log.addFilter(raise_again)
    try:
        yield
    finally:
        log.removeFilter(raise_again)


@contextlib.contextmanager
def run_folder(path: str, resume: bool, replace: bool) -> Iterator[RunFolder]:
    """The folder `path`, locked for this run alone, in which files can be written.

    Args:
        resume: whether the folder may hold a run already, for this one to continue.
        replace: whether this run takes the place of one that the folder holds.

    Raises:
        UserError: it cannot be written, another process is using it, or it holds a run already. It is as it
            was before.
    """
    if not path:
        raise UserError("train.output_dir is empty: name the folder of this run")
    folder = RunFolder(Path(path), replace and not resume)
    lock, new = on_main(lambda: _claim(folder.path, resume or replace)) or (None, [])
    try:
        yield folder
    finally:
        if lock is not None:
            lock.release()
            if not folder.begun:
                remove_empty(new)


def _claim(folder: Path, may_hold_a_run: bool) -> tuple[FolderLock, list[Path]]:
    if os.path.isdir(folder) and not may_hold_a_run:  # unlike Path's, it never raises
        _refuse_another_run(folder)
    names = ("config.yaml", "log.txt", "last_checkpoint", "best.json", METRICS, RESULTS)
    if odd := next((name for name in names if os.path.isdir(folder / name)), None):
        raise UserError(f"{folder / odd} is a folder, and a run writes a file there: remove it")
    new = make_folder(folder)
    try:
        return FolderLock(folder), new
    except BaseException:
        remove_empty(new)
        raise


def _refuse_another_run(folder: Path) -> None:
    metrics = folder / METRICS
    found = [f for f in _files_of_a_run(folder) if f != metrics or f.stat().st_size > 0]
    if found:
        raise UserError(
            f"{folder} holds a run already ({found[0].name}): go on with it by --resume, give this one "
            "another train.output_dir, or remove that folder"
        )


def _files_of_a_run(folder: Path) -> list[Path]:
    """What a run leaves in `folder`, but for its config and log, which change with every start."""
    names = ("last_checkpoint", BEST, AVERAGED, "best.json", METRICS)
    return [*run_checkpoints(folder), *(folder / name for name in names if (folder / name).is_file())]


def write_results(folder: Path, results: dict, **facts: Any) -> None:
    """Write the nested `results` of an evaluation, and `facts` about it, to results.json in `folder`.

    Figures that are not finite, which JSON lacks, become null.
    """
    with atomic_write(folder / RESULTS) as temp:
        temp.write_text(json.dumps({**facts, "results": _finite(results)}, indent=2) + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    number = float(value)
    return number if math.isfinite(number) else None
