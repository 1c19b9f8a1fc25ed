"""A readable report of what loading did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sized
from dataclasses import dataclass, field

from tabulate import tabulate
from torch import Tensor


@dataclass
class LoadReport:
    """The fate of every key of the file and of every tensor of the model; printing it gives a table."""

    path: str
    source: str = ""  # what kind of trunk it is, such as "Swin of mmdetection"
    matched: list[str] = field(default_factory=list)  # filled as they are in the file
    resized: list[str] = field(default_factory=list)  # "name: how"
    missing: list[str] = field(default_factory=list)  # absent in the file and allowed to be: set to zero
    identity: list[str] = field(default_factory=list)  # the same of norms: set to scale 1, shift 0
    reshaped: list[str] = field(default_factory=list)  # "name: shapes"; of another shape, left as initialized
    fresh: list[str] = field(default_factory=list)  # every tensor of the model that the file did not fill
    ignored: list[str] = field(default_factory=list)  # keys of the file that the model has no use for

    def line(self) -> str:
        """What was read from where, and what stays as it was initialized, in one line."""
        filled = count(self.matched + self.resized, "tensor")
        resized = f", {len(self.resized)} of them resized" if self.resized else ""
        parts = [f"{filled} ({self.source}{resized}) from {self.path}"]
        rows = [("zero", self.missing), ("identity", self.identity), ("as initialized", self.fresh)]
        parts += [f"{what}: {len(names)}, {brief(names)}" for what, names in rows if names]
        return "; ".join(parts)

    def __str__(self) -> str:
        rows = [
            ("filled", self.matched),
            ("filled, resized", self.resized),
            ("not in the file, zero", self.missing),
            ("not in the file, identity", self.identity),
            ("not filled, as initialized", self.fresh),
            ("of another shape", self.reshaped),
            ("of no use here", self.ignored),
        ]
        table = [(what, len(names), brief(names)) for what, names in rows if names]
        return f"weights of {self.path}\n" + tabulate(table, ("", "tensors", "names"), tablefmt="simple")


def sizes(tensor: Tensor) -> str:
    """The tensor's shape, such as 768x768."""
    return "x".join(map(str, tensor.shape)) or "scalar"


def count(names: Sized, noun: str) -> str:
    """How many `names` there are: "1 tensor", "2 tensors"."""
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'}"


def first(names: list[str], separator: str = ", ") -> str:
    """The first three of `names`, for a message: what cannot be printed in one line becomes "?"."""
    text = separator.join(name if len(name) <= 100 else f"{name[:97]}..." for name in names[:3])
    return "".join(c if c.isprintable() else "?" for c in text) + (", ..." if len(names) > 3 else "")


def brief(names: list[str]) -> str:
    """Up to three names; of more, how many there are under each common start."""
    if len(names) <= 3:
        return ", ".join(names)
    families = Counter(".".join(n.split(":")[0].split(".")[:-1][:3]) or n.split(":")[0] for n in names)
    parts = [f"{name} ({count})" for name, count in families.items()]
    return ", ".join(parts[:4]) + (f" and {len(parts) - 4} more" if len(parts) > 4 else "")
