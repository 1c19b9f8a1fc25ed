"""A readable report of what a conversion did."""

from __future__ import annotations

from dataclasses import dataclass, field

from tabulate import tabulate

from ..report import brief


@dataclass
class ConversionReport:
    """The fate of every tensor of the file and of the model. `unused` has the file's names."""

    source: str
    taken: list[str] = field(default_factory=list)
    renamed: int = 0  # how many of these have another name in the file
    class_layers: list[str] = field(default_factory=list)  # "name: sizes"; made for other classes, left out
    misfits: list[str] = field(default_factory=list)  # "name: sizes"; of another architecture, left out
    zero: list[str] = field(default_factory=list)  # biases that the file's layers do without
    plugins: list[str] = field(default_factory=list)  # stem and tuner, not in the file
    missing: list[str] = field(default_factory=list)  # the rest of what is not in the file
    unused: list[str] = field(default_factory=list)  # the file's, of no use to the model
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rows = [
            ("taken", self.taken),
            ("no bias in the file, zero", self.zero),
            ("class layers, as initialized", self.class_layers),
            ("stem and tuner, as initialized", self.plugins),
            ("of another kind, as initialized", self.misfits),
            ("not in the file, as initialized", self.missing),
            ("of no use here", self.unused),
        ]
        plain = [(what, [n.partition(":")[0] for n in names]) for what, names in rows]
        table = [(what, len(names), brief(names)) for what, names in plain if names]
        table.insert(1, ("  of them renamed", self.renamed, ""))
        lines = [f"converted {self.source}", tabulate(table, ("", "tensors", "names"), tablefmt="simple")]
        lines += [f"made for other classes: {line}" for line in self.class_layers]
        lines += [f"of another kind: {line}" for line in self.misfits]
        return "\n".join(lines + [f"note: {line}" for line in self.notes])
