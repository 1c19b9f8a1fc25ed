"""A run's figures at Weights & Biases, where `train.wandb` names a project."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import yaml
from detectron2.utils.events import EventWriter, get_event_storage

from ..errors import UserError
from ..utils.text import read_text

FOLDER = "wandb"  # in the folder of the run; the library keeps its own files there


class _NamesAsText(yaml.SafeLoader):
    """Reads a config.yaml without importing what it names."""


def _as_text(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> object:
    if isinstance(node, yaml.SequenceNode):  # a tuple
        return loader.construct_sequence(node, deep=True)
    return suffix.partition(":")[2]  # of "name:timm.layers.LayerNorm2d"


_NamesAsText.add_multi_constructor("tag:yaml.org,2002:python/", _as_text)


def check_wandb() -> None:
    """Raise a UserError if the library is missing, or if it is to send figures and nobody is logged in."""
    try:
        import wandb
    except ImportError as error:
        raise UserError("train.wandb needs wandb: pip install 'ivtuning[wandb]'") from error
    if os.environ.get("WANDB_MODE", wandb.setup().settings.mode) != "online":
        return
    try:
        wandb.Api()
    except wandb.errors.Error as error:
        raise UserError(
            "train.wandb: nobody is logged in at Weights & Biases: call `wandb login` once, or set "
            "WANDB_MODE=offline and send the figures later with `wandb sync`"
        ) from error


class WandbWriter(EventWriter):
    """Sends what TensorBoard gets as well, over the figure `iteration`; the run's config goes with it.

    The run keeps its id there when it is resumed. Iterations that it does again then show twice, with equal
    values.

    Args:
        project: its name.
        folder: of the run, with its config.yaml.
        window: values of a figure, of which a point is the median.
        last: iteration of the last write before the run was resumed, or -1.
    """

    def __init__(self, project: str, folder: Path, window: int, last: int):
        import wandb

        file = folder / FOLDER / "run_id"
        file.parent.mkdir(exist_ok=True)
        if not file.is_file():
            file.write_text(secrets.token_hex(4) + "\n", encoding="utf-8")
        self._window, self._last_write = window, last
        try:
            self._run = wandb.init(
                project=project,
                id=read_text(file).strip(),
                resume="allow",
                name=folder.name,
                dir=str(folder),
                config=yaml.load(read_text(folder / "config.yaml"), _NamesAsText),
                settings=wandb.Settings(console="off"),  # the run has a log of its own
            )
        except wandb.errors.Error as error:
            raise UserError(f"train.wandb={project}: Weights & Biases does not start: {error}") from error
        self._run.define_metric("*", step_metric="iteration")

    def write(self) -> None:
        points: dict[int, dict[str, float]] = {}
        figures = get_event_storage().latest_with_smoothing_hint(self._window)
        for name, (value, iteration) in figures.items():
            if iteration > self._last_write:
                points.setdefault(iteration, {})[name] = value
        for iteration in sorted(points):
            self._run.log({"iteration": iteration, **points[iteration]})
            self._last_write = iteration

    def close(self) -> None:
        self._run.finish()
