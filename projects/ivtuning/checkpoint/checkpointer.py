"""detectron2's checkpointer, with atomic files that load without running code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer

from ..errors import UserError
from ..utils.files import atomic_write
from .files import local_path, read
from .pretrained import load_pretrained
from .report import first
from .shards import gathered, share


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

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a checkpoint of a model with the same tensors; see fvcore's Checkpointer.

        Raises:
            UserError: no such file, a damaged one, or one of another model (which is then as it was).
        """
        if path:
            path = str(local_path(path))
        try:
            # This skips detectron2's own load: it handles URLs and heuristics, and differs between releases.
            return super(DetectionCheckpointer, self).load(path, checkpointables)
        except UserError:
            raise
        except (KeyError, ValueError) as error:
            raise UserError(
                f"{path}: its trainer's state does not fit this run ({error}): resume with the config it was "
                "written with, or start a new run from it with train.init_checkpoint"
            ) from error

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Go on from the last checkpoint where there is one, else start from the weights at `path`.

        Raises:
            UserError: the last checkpoint is gone or damaged (the message names the newest good one), or see
                :meth:`load`.
        """
        if not (resume and self.has_checkpoint()):
            if path:
                self.logger.info("%s", load_pretrained(self.model, path))
            return {}
        last = self.get_checkpoint_file()
        try:
            return self.load(last)
        except UserError as error:
            if self._is_whole(last):
                raise
            raise UserError(f"{error}; {self._way_out(last)}") from error

    def _is_whole(self, file: str) -> bool:
        try:
            return self.checkpointables.keys() <= read(local_path(file)).keys()
        except UserError:
            return False

    def _way_out(self, damaged: str) -> str:
        others = [f for f in self.get_all_checkpoint_files() if f != damaged]
        for file in sorted(others, key=os.path.getmtime, reverse=True):
            if self._is_whole(file):
                marker = os.path.join(self.save_dir, "last_checkpoint")
                return f"{file} is whole: go on from it after `printf {os.path.basename(file)} > {marker}`"
        return f"no other checkpoint in {self.save_dir} is whole: train without --resume"

    def _load_file(self, filename: str) -> dict[str, Any]:
        data = read(Path(filename))
        if not isinstance(data, Mapping):
            raise UserError(f"{filename}: not a checkpoint but a {type(data).__name__}")
        data = dict(data) if "model" in data else {"model": data}
        file = {k: tuple(v.shape) for k, v in data["model"].items()}
        state = self.model.state_dict()
        own = {k: tuple(v.shape) for k, v in state.items()}
        odd = [k for k in [*own, *(file.keys() - own.keys())] if file.get(k) != own.get(k)]
        if odd:
            raise UserError(
                f"{filename}: a checkpoint of another model: other tensors: {len(odd)} "
                f"({first(odd)}): use the config it was written with, or another train.output_dir"
            )
        data["model"] = {k: share(v, state[k]) for k, v in data["model"].items()}
        return data


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
