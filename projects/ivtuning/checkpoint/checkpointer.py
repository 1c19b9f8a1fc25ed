"""detectron2's checkpointer, with atomic files that load without running code."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer

from ..errors import UserError
from ..hub.names import local_path
from ..utils.files import atomic_write
from ..utils.text import read_text
from .files import read
from .report import first
from .shards import gathered, share

# Names of a run's checkpoints beside the numbered ones: the last one, and one of a run that a signal stopped.
FINAL, STOPPED = "model_final.pth", "model_stopped.pth"
BEST = "model_best.pth"  # by train.best_metric
AVERAGED = "model_averaged.pth"  # the weights that a finished run with train.ema_decay evaluated


def run_checkpoints(folder: str | os.PathLike) -> list[Path]:
    """The checkpoints in `folder` from which a run goes on: the numbered ones, by number, and the others."""
    numbered = numbered_checkpoints(folder)
    others = (Path(folder, name) for name in (STOPPED, FINAL))
    return [*(numbered[number] for number in sorted(numbered)), *(file for file in others if file.is_file())]


def numbered_checkpoints(folder: str | os.PathLike) -> dict[int, Path]:
    """The checkpoints in `folder` that were written in between, by the iteration in their name."""
    found = (
        (re.fullmatch(r"model_(\d+)\.pth", file.name), file) for file in Path(folder).glob("model_*.pth")
    )
    return {int(name[1]): file for name, file in found if name}


def last_checkpoint(folder: str | os.PathLike) -> str:
    """The checkpoint in `folder` that the marker names, "" without one.

    A run that was killed before it wrote its first marker has the newest checkpoint.
    """
    marker = Path(folder, "last_checkpoint")
    name = read_text(marker).strip() if marker.is_file() else ""
    if not name:
        name = max(run_checkpoints(folder), key=os.path.getmtime, default=Path()).name
    return os.path.join(folder, name) if name else ""


class Checkpointer(DetectionCheckpointer):
    """Checkpoints of one run in a local folder: model, trainer, and a "last_checkpoint" marker.

    A full disk leaves the last good checkpoint and the marker as they were. The main process writes, every
    process reads, and all must call each method: a model may be sharded over them, its files never are.
    For weights of other origins there is :func:`ivtuning.checkpoint.load_weights`.
    """

    def save(self, name: str, **kwargs: Any) -> None:
        """Write model, checkpointables and `kwargs` to "<name>.pth", then let the marker name it."""
        if self._write(name, {k: o.state_dict() for k, o in self.checkpointables.items()} | kwargs):
            self.tag_last_checkpoint(f"{name}.pth")

    def save_model(self, name: str, **kwargs: Any) -> None:
        """Write the model alone, and `kwargs`, to "<name>.pth"; the marker stays as it is."""
        self._write(name, kwargs)

    def _write(self, name: str, extra: dict[str, Any]) -> bool:
        model = self.model.state_dict()
        for key, value in model.items():
            value = gathered(value)
            # Frozen weights may be kept in bfloat16 (train.frozen_dtype); files hold float32.
            half = value is not None and value.dtype == torch.bfloat16
            model[key] = value.float() if half else value
        extra = gathered(extra)
        if not self.save_dir or not self.save_to_disk:
            return False
        path = Path(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        data = {"model": model, **_plain(extra)}
        with atomic_write(path) as temp, open(temp, "wb") as f:
            torch.save(data, f)
        return True

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Let the marker name this file."""
        with atomic_write(Path(self.save_dir, "last_checkpoint")) as temp:
            temp.write_text(last_filename_basename)

    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return bool(self.get_checkpoint_file())

    def get_checkpoint_file(self) -> str:
        """See :func:`last_checkpoint`."""
        return last_checkpoint(self.save_dir)

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a checkpoint of a model with the same tensors; see fvcore's Checkpointer.

        A checkpointable with a method `check_state` judges its state before anything is loaded.

        Raises:
            UserError: no such file, a damaged one, or one of another model or trainer. Model and
                checkpointables are then as they were.
        """
        if path:
            path = str(local_path(path))
        try:
            # This skips detectron2's own load: it handles URLs and heuristics, and differs between releases.
            return super(DetectionCheckpointer, self).load(path, checkpointables)
        except UserError:
            raise
        except (KeyError, ValueError) as error:
            raise _other_trainer(path, error) from error

    def resume(self) -> dict[str, Any]:
        """Go on from the last checkpoint, which there must be; returns what else :meth:`save` put into it.

        Raises:
            UserError: the last checkpoint is gone or damaged (the message names the newest good one), or see
                :meth:`load`.
        """
        last = self.get_checkpoint_file()
        try:
            return self.load(last)
        except UserError as error:
            if self._is_whole(last):
                raise
            raise UserError(f"{error}; {self._way_out(last)}") from error

    def _is_whole(self, file: str) -> bool:
        try:
            data = read(local_path(file))
            return isinstance(data, Mapping) and {"model", *self.checkpointables} <= data.keys()
        except UserError:
            return False

    def _way_out(self, damaged: str) -> str:
        others = [str(f) for f in run_checkpoints(self.save_dir) if str(f) != damaged]
        for file in sorted(others, key=os.path.getmtime, reverse=True):
            if self._is_whole(file):
                name, marker = os.path.basename(file), os.path.join(self.save_dir, "last_checkpoint")
                return f"{file} is whole: go on from it after `printf {name} > {shlex.quote(marker)}`"
        return f"no other checkpoint in {self.save_dir} is whole: start anew with another train.output_dir"

    def _load_file(self, filename: str) -> dict[str, Any]:
        data = read(Path(filename))
        if not isinstance(data, Mapping):
            raise UserError(f"{filename}: not a checkpoint but a {type(data).__name__}")
        data = dict(data) if "model" in data else {"model": data}
        self._check_model(filename, data["model"])
        missing = " and ".join(sorted(self.checkpointables.keys() - data.keys()))
        if missing:
            raise UserError(
                f"{filename}: no checkpoint of a run, it lacks {missing}; weights alone start a new run, by "
                "train.init_checkpoint"
            )
        for name, checkpointable in self.checkpointables.items():
            if hasattr(checkpointable, "check_state"):
                self._check_state(filename, checkpointable, data[name])
        state = self.model.state_dict()
        data["model"] = {k: share(v, state[k]) for k, v in data["model"].items()}
        return data

    def _check_model(self, filename: str, found: Any) -> None:
        file = (
            {k: tuple(getattr(v, "shape", (None,))) for k, v in found.items()}
            if isinstance(found, Mapping)
            else {}
        )
        own = {k: tuple(v.shape) for k, v in self.model.state_dict().items()}
        odd = [k for k in [*own, *(file.keys() - own.keys())] if file.get(k) != own.get(k)]
        if odd:
            raise UserError(
                f"{filename}: a checkpoint of another model: other tensors: {len(odd)} "
                f"({first(list(map(str, odd)))}): use the config it was written with, or another "
                "train.output_dir"
            )
        bad = next((k for k, v in found.items() if not torch.isfinite(torch.as_tensor(v)).all()), None)
        if bad is not None:
            raise UserError(f"{filename}: {bad} holds NaN or infinite numbers: the run had diverged by then")

    @staticmethod
    def _check_state(filename: str, checkpointable: Any, state: Any) -> None:
        try:
            checkpointable.check_state(state)
        except UserError as error:
            raise _other_trainer(filename, error) from error


def _other_trainer(file: str, error: Exception) -> UserError:
    return UserError(
        f"{file}: its trainer's state does not fit this run ({error}): resume with the config it was written "
        "with, or start a new run from it with train.init_checkpoint"
    )


def _plain(value: Any, where: str = "checkpoint") -> Any:
    """`value` in types that torch.load(weights_only=True) accepts: numpy becomes Python and torch."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if isinstance(value, Mapping):
        return {_plain(k, where): _plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return (tuple if isinstance(value, tuple) else list)(_plain(v, where) for v in value)
    if isinstance(value, torch.Tensor) or type(value) in (type(None), bool, int, float, complex, str, bytes):
        return value
    raise TypeError(
        f"{where} is a {type(value).__name__}: checkpoints hold tensors, numbers, texts, lists and dicts"
    )
