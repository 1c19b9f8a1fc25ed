"""What a comparison is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ..errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is compared.

    Args:
        only: keys of ROWS to run; () = all where there are no variants, else none but these.
        variants: further rows, see :func:`.rows.parse_variant`.
        seeds: how many, from 0.
        sizes: numbers of training pairs; () = the whole training set.
        search: factors of all rates of a row, one of which is chosen for it; () = its own rates.
        search_size: training pairs of the runs of the search, None = all that are not held back.
        hold_out: what of the training set is held back to choose the rate: a share, or a number of pairs.
        missing: evaluate the final models of pairs with each image withheld in turn as well.
        against: key of the row that the others are compared with.
        processes: runs at a time, None = one a core; 1 runs them in this process.

    Raises:
        UserError: a number out of range.
    """

    only: Sequence[str] = ()
    variants: Sequence[str] = ()
    seeds: int = 3
    sizes: Sequence[int] = ()
    search: Sequence[float] = ()
    search_size: int | None = None
    hold_out: float = 0.2
    missing: bool = False
    against: str = "Full"
    processes: int | None = None

    def __post_init__(self):
        for name in ("seeds", "processes", "search_size", "sizes"):
            given = getattr(self, name)
            if any(n < 1 for n in (given if name == "sizes" else [1 if given is None else given])):
                raise UserError(f"--{name.replace('_', '-')} {_text(given)}: give 1 or more")
        if self.search and min(self.search) <= 0:
            raise UserError(f"--search {_text(self.search)}: give factors above 0, such as 0.3,1,3,10")
        if self.search and self.hold_out <= 0:
            raise UserError(
                f"--hold-out {self.hold_out:g}: the search needs pairs for validation, such as 0.2 of the "
                "training set"
            )


def _text(values: Any) -> str:
    return ",".join(f"{value:g}" for value in values) if isinstance(values, Sequence) else str(values)
