"""The rows of a comparison: a method each, or a variant of one that the user states."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from ..errors import UserError, nearest
from ..methods import METHODS, find_method
from ..tuning import Full
from ..tuning.selection import Partial

NET = "model.backbone.net"
# The tuners' option that takes the width of IV-tuning's bottleneck where a config has no `methods`.
WIDTHS = {"Mona": "hidden_dim", "Adapter": "hidden_dim", "AdaptFormer": "hidden_dim", "LoRA": "rank"}


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table. Without `method` it keeps the config's stem and tuner, which are IV-tuning's.

    Args:
        name: what the table calls it.
        method: a key of :data:`ivtuning.methods.METHODS`.
        changes: further overrides.
    """

    name: str
    method: str | None = None
    changes: tuple[str, ...] = ()

    @property
    def paired(self) -> bool:
        """Whether the model uses both images."""
        return len(METHODS[self.method or "IVTuning"].stem.uses) == 2

    @property
    def trains_trunk(self) -> bool:
        """Whether whole blocks of the trunk train, at a rate of their own."""
        return METHODS[self.method or "IVTuning"].tuner in (Full, Partial)

    def overrides(self, shared: Sequence[str], width: int | None) -> list[str]:
        """The config's overrides of this row; those of stem and tuner in `shared` reach IV-tuning alone.

        What is added trains at the heads' rate, and so do selected biases and norms. Whole blocks have the
        rate that the config states for the trunk, and so does the stem that goes with them.

        Args:
            width: of IV-tuning's bottleneck, for the other tuners; None leaves theirs.
        """
        own = list(shared)
        if self.method:
            own = [o for o in own if not o.startswith((f"{NET}.stem", f"{NET}.tuner", "method="))]
            own.append(f"method={self.method}")
            if width and self.method in WIDTHS:
                own.append(f"{NET}.tuner.{WIDTHS[self.method]}={width}")
        if self.trains_trunk:
            own.append("optimizer.params.added_lr_factor=${.trunk_lr_factor}")
        else:
            own.append("optimizer.params.added_lr_factor=1")
            if self.method and not METHODS[self.method].has_adapters:
                own.append("optimizer.params.trunk_lr_factor=1")
        return [*own, *self.changes]


ROWS = {
    "visible": Row("visible only", "visible"),
    "infrared": Row("infrared only", "infrared"),
    "both": Row("both, frozen", "both"),
    # Only beside a tuned model of one image do the others show what the second is worth.
    "full_visible": Row("Full, visible only", "full_visible"),
    "IVTuning": Row("IVTuning"),
    **{
        name: Row(name, name)
        for name in ("Mona", "Adapter", "AdaptFormer", "LoRA", "BitFit", "NormTuning", "Partial", "Full")
    },
    "IVTuning-3x": Row("IVTuning, 3x rate", changes=("optimizer.params.added_lr_factor=3",)),
    "IVTuning-dropout": Row(
        "IVTuning, modality dropout",
        changes=("dataloader.train.mapper.modality_dropout=0.3", "model.fill_missing=mean"),
    ),
}


def choose_rows(only: Sequence[str]) -> list[str]:
    """The keys of ROWS that `only` names, all without any.

    Raises:
        UserError: there is no such row.
    """
    for key in only:
        if key not in ROWS:
            raise UserError(f"no method {key!r}{nearest(key, ROWS)}; there are {', '.join(ROWS)}")
    return [key for key in ROWS if not only or key in only]


def parse_variant(text: str) -> tuple[str, Row]:
    """The key and the row of a variant, ``name: override override``; of IV-tuning unless it has ``method=``.

    Raises:
        UserError: it is written in another way, or has the name of a row of ROWS.
    """
    name, colon, rest = text.partition(":")
    name, changes = name.strip(), rest.split()
    if not colon or not re.fullmatch(r"\w[\w .,+=-]*", name) or not all("=" in change for change in changes):
        raise UserError(f"--variant {text!r}: write it as 'name: key=value key=value'")
    key = re.sub("[ ,]+", "_", name)  # it names a folder, and a comma would make a list of an override
    if {key.lower(), name.lower()} & {text.lower() for row in ROWS.items() for text in (row[0], row[1].name)}:
        raise UserError(f"--variant {text!r}: there is a row {name}: choose another name")
    methods = [change.partition("=")[2] for change in changes if change.startswith("method=")]
    changes = [change for change in changes if not change.startswith("method=")]
    return key, Row(name, find_method(methods[-1]) if methods else None, tuple(changes))
