"""One run of a comparison, and what it has left."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

from ..data.modalities import MODALITIES

RESULT = "result.json"


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of a row.

    Args:
        row: its key.
        label: what the run is called.
        size: training pairs, None = the whole training set.
        factor: of all rates of the run; None where no rate is searched for.
        rate: of what is added; of the trunk's own parameters where some of these train.
        search: whether the run serves to choose the rate, on the validation part.
        missing: evaluate with each image withheld in turn as well.
        folder: where the run writes.
        identity: a hash of its config, pairs and trunk.
        metric: the figure that rows are judged by, such as "bbox/AP".
        processes: how many jobs run at a time.
    """

    row: str
    label: str
    seed: int
    size: int | None
    factor: float | None
    rate: float
    search: bool
    missing: bool
    config: str
    overrides: list[str]
    folder: str
    identity: str
    metric: str
    processes: int

    def result(self, complete: bool = True) -> dict | None:
        """The result that the run has left; None where there is none of this config, data and trunk.

        Args:
            complete: it must have the figures without each image, if these are asked for.
        """
        try:
            result = json.loads(Path(self.folder, RESULT).read_text())
        except (OSError, ValueError):
            return None
        lacks = complete and self.missing and not set(MODALITIES) <= set(result["figures"])
        return result if result["identity"] == self.identity and not lacks else None

    @property
    def command(self) -> str:
        """The command line that repeats the run, in a folder beside it."""
        parts = [o for o in self.overrides if not o.startswith("train.output_dir=")]
        parts += [f"train.output_dir={self.folder}_again"]
        return "OMP_NUM_THREADS=1 python tools/train_net.py " + shlex.join(
            ["--config-file", self.config, *parts]
        )
