"""Options of a benchmark; every part reads those that concern it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..errors import UserError
from ..methods import METHODS, find_method
from ..tuning import Frozen

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Options:
    """The user's choices.

    Attributes:
        trunk: a name of :data:`.subjects.trunks.MAKERS`; None leaves the choice to the part.
        size: height and width in pixels; None: the trunk's usual size.
        depth: number of blocks to shorten the trunk to; None: all blocks.
        batch: number of pairs in a batch.
        repeats: number of timed rounds, after the warm-up.
        dtype: "fp32", or "bf16" for autocast.
        large: compare with the reference at 1024 x 1024 pixels as well.
        tokens: side length, in tokens, of the map that attention alone is measured on.
        images: number of images in the COCO evaluation.
        dataset: a registered paired detection set for the loader; None generates `pairs` synthetic pairs.
        workers: number of the loader's processes; 0 reads in the main process.
        processes: how many processes train together; None: one for each CUDA device, or two.
        plot: PNG file for the curves of growth.
        methods: names of :data:`..methods.METHODS`, whose steps are counted beside full fine-tuning's, or
            measured as well.
        card: a name of :data:`.measures.cards.CARDS`.
        config: LazyConfig file of a whole model; None leaves it to the part.
        overrides: changes to that config, "key=value".
    """

    trunk: str | None = None
    size: tuple[int, int] | None = None
    depth: int | None = None
    batch: int = 1
    repeats: int = 5
    dtype: str = "fp32"
    large: bool = True
    tokens: int = 64
    images: int = 5000
    dataset: str | None = None
    pairs: int = 64
    workers: int = 0
    processes: int | None = None
    plot: str | None = None
    methods: tuple[str, ...] = ("IVTuning",)
    card: str = "h200"
    config: str | None = None
    overrides: tuple[str, ...] = ()

    @cached_property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def warmup(self) -> int:
        """Number of untimed rounds of trunks and models; CUDA chooses and compiles kernels in them."""
        return 3 if self.device.type == "cuda" else 1

    def trained_methods(self) -> list[str]:
        """Full names of `methods`.

        Raises:
            UserError: there is no such method, it trains nothing, or it changes more than stem and tuner.
        """
        names = list(map(find_method, self.methods))
        for name in names:
            method = METHODS[name]
            if issubclass(method.tuner, Frozen) and len(method.stem.uses) < 2:
                raise UserError(f"--method {name} trains nothing: give one that does, such as IVTuning")
            if method.configure:
                raise UserError(f"--method {name} is measured with a config: tools/benchmark.py model")
        return names

    def autocast(self) -> contextlib.AbstractContextManager:
        """The context that gives forward passes their precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == "bf16")

    def trunk_label(self, trunk: str) -> str:
        """The trunk's name, and to how many blocks it was shortened."""
        return f"{trunk} cut to {self.depth} blocks" if self.depth else trunk

    def describe(self, trunk: str, size: tuple[int, int]) -> str:
        """The conditions of a trunk's measurement, in words."""
        return f"{self.trunk_label(trunk)}, {size[0]} x {size[1]} px, batch {self.batch}, {self.dtype}"

    def random_pairs(self, size: tuple[int, int]) -> Tensor:
        """A batch of normalized pairs: (B, 6, H, W)."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(self.batch, 6, *size, generator=generator).to(self.device)
