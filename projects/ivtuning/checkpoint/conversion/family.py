"""A family of checkpoints, and what the tables of names are written with."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Patterns and their replacements; every name goes through all of them, in this order.
Rules = Sequence[tuple[str, str | Callable[[re.Match], str]]]
State = dict[str, Tensor]


def _nothing(state: State, own: Mapping[str, Tensor]) -> list[str]:
    return []


@dataclass(frozen=True)
class Family:
    """Checkpoints that name their parts alike.

    Args:
        name: on the command line.
        what: the same in messages.
        mark: pattern of a name that such files have and those of the other families lack.
        rules: makes the table of names for a file (some names carry numbers that depend on it).
        adapt: changes renamed tensors in place, `own` being the model's; returns notes for the report.
    """

    name: str
    what: str
    mark: str
    rules: Callable[[Mapping[str, Tensor]], Rules]
    adapt: Callable[[State, Mapping[str, Tensor]], list[str]] = _nothing

    def claims(self, state: Mapping[str, Tensor]) -> bool:
        """Whether `state` has this family's mark."""
        return any(re.search(self.mark, n) for n in state)


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are one, or equal."""
    return a is b or (a.shape == b.shape and torch.equal(a, b))


def numbers(names: Mapping[str, Tensor], pattern: str) -> list[int]:
    """The numbers that the first group of `pattern` matches in `names`, each once, in rising order."""
    return sorted({int(m[1]) for m in (re.search(pattern, n) for n in names) if m})


def shift(text: str, first: int, step: int = 1) -> Callable[[re.Match], str]:
    """A replacement that writes ``first + step * number`` for ``{}`` in `text`.

    The number is the last group of the match; ``\\1`` and so on in `text` are earlier groups.
    """
    return lambda m: m.expand(text.replace("{}", str(first + step * int(m[m.re.groups]))))


def first_level(state: Mapping[str, Tensor], lateral: str, embed: str) -> int:
    """The finest map that a pyramid on a Swin takes, as log2 of its stride.

    Args:
        lateral: pattern of its weight, (channels, C * 2**i, 1, 1).
        embed: pattern of the patch embedding's, (C, 3, 4, 4), stride 4.
    """
    weights = [next((t for n, t in state.items() if re.search(p, n)), None) for p in (lateral, embed)]
    if any(t is None or t.ndim != 4 for t in weights):
        return 2
    wide, narrow = weights[0].shape[1], weights[1].shape[0]
    return 2 + max(wide // narrow, 1).bit_length() - 1


def size_major(state: State, names: Sequence[str], anchors: int) -> None:
    """Reorder the outputs of dense heads that have anchors of 3 sizes in each of 3 shapes.

    mmdetection and torchvision list all sizes of the first shape first, detectron2 all shapes of the first
    size. The outputs are the first dimension, (9 * values, ...). Other numbers of anchors have one size or
    one shape, and nothing to reorder.
    """
    if anchors != 9:
        return
    order = torch.arange(9).view(3, 3).T.flatten()
    for name in names:
        if name in state:
            state[name] = state[name].unflatten(0, (9, -1))[order].flatten(0, 1)
