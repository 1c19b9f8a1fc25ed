"""The training loader. Its samples are a pure function of (seed, position): a resumed run sees the same ones.

Position p = 0, 1, 2, ... belongs to epoch p // N and is entry p % N of that epoch's permutation, which is
drawn from (seed, epoch). The mapper runs with generators seeded from (seed, p). A sample depends neither on
the number of workers or ranks nor on where a run starts.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from detectron2.data.common import DatasetFromList
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from ...errors import UserError, nearest
from ..image_files import BadPair
from ..mappers.copy_paste import CopyPaste
from .transport import Packed, pack, unpack
from .workers import leave_signals_to_parent

logger = logging.getLogger("ivtuning.data")
_ON_BAD_PAIR = ("stop", "skip")
_ORDER, _SAMPLE = 0, 1  # separate the two uses of the seed


def build_train_loader(
    dataset: Sequence[dict],
    mapper: Callable[[dict], dict | None],
    total_batch_size: int,
    num_workers: int = 0,
    seed: int | None = 0,
    start: int = 0,
    on_bad_pair: str = "stop",
    copy_paste: Mapping | None = None,
) -> TrainLoader:
    """An infinite loader of lists of mapped samples.

    Args:
        dataset: N dataset dicts.
        mapper: dict -> sample, or None to decline the pair, which the epoch's next pair then replaces.
        total_batch_size: samples in a global batch, B, over all ranks. Global batch k holds the positions
            k*B..k*B+B-1, of which each rank reads a contiguous share.
        num_workers: processes that read ahead; 0 reads in the main process.
        seed: the same on all ranks. None, or a negative one as in detectron2, draws a seed and shares it.
        start: the number of global batches that an earlier run consumed.
        on_bad_pair: "stop" raises :class:`BadPair`; "skip" takes the epoch's next good pair, warns with the
            file's name and counts it in `loader.skipped`.
        copy_paste: `prob` and `max_objects` of a :class:`..mappers.copy_paste.CopyPaste` around the mapper,
            which pastes from `dataset`; None pastes nothing.

    Raises:
        UserError: arguments out of range. While iterating: the UserError that the mapper raised, unchanged,
            whether in a worker or not.
    """
    world = comm.get_world_size()
    if not len(dataset):
        raise UserError("the training set has no pairs: check its JSON and filters")
    if total_batch_size < 1 or total_batch_size % world:
        raise UserError(f"total_batch_size={total_batch_size}: give a positive multiple of the {world} ranks")
    if start < 0 or num_workers < 0:
        raise UserError(f"start={start}, num_workers={num_workers}: neither can be negative")
    if on_bad_pair not in _ON_BAD_PAIR:
        known = " or ".join(_ON_BAD_PAIR)
        raise UserError(f"on_bad_pair={on_bad_pair!r}: give {known}{nearest(on_bad_pair, _ON_BAD_PAIR)}")
    if seed is None or seed < 0:
        seed = comm.shared_random_seed()
    if isinstance(dataset, list):
        # Serialized, because changing reference counts would copy the list into every worker's memory.
        dataset = DatasetFromList(dataset, copy=False)
    if copy_paste is not None:
        if getattr(mapper, "oriented", False):
            raise UserError("copy_paste does not paste oriented boxes: set dataloader.train.copy_paste=null")
        mapper = CopyPaste(mapper, dataset, **copy_paste)
    stream = _Stream(dataset, mapper, int(seed), skip=on_bad_pair == "skip")
    batches = _Batches(start, total_batch_size, comm.get_rank(), world)
    return TrainLoader(stream, batches, num_workers)


class TrainLoader(DataLoader):
    """The loader that :func:`build_train_loader` returns. With CUDA, images are in pinned memory.

    Attributes:
        seed (int): the seed in use.
        skipped (Counter): file name -> how often it was skipped on this rank since the loader was built.
    """

    def __init__(self, stream: _Stream, batches: _Batches, num_workers: int):
        # A generator of its own: starting workers would otherwise draw from the global one.
        generator = torch.Generator().manual_seed(stream.seed)
        super().__init__(
            stream,
            batch_sampler=batches,
            num_workers=num_workers,
            collate_fn=pack if num_workers else list,
            generator=generator,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=leave_signals_to_parent,
        )
        self.seed = stream.seed
        self.skipped = Counter()

    def __iter__(self) -> Iterator[list[dict]]:
        for batch in super().__iter__():
            if isinstance(batch, Packed):
                batch = unpack(batch)
            for read in batch:
                for file_name, why in read.skipped:
                    self.skipped[file_name] += 1
                    logger.warning("skipped %s (time %d): %s", file_name, self.skipped[file_name], why)
                if read.error is not None:
                    raise read.error
            yield [read.sample for read in batch]


class _Read(NamedTuple):
    """The result of one position. Errors travel as values: torch turns a worker's exception into text."""

    sample: dict | None
    error: UserError | None
    skipped: list[tuple[str, str]]


class _Stream(Dataset):
    """A data set of positions: torch asks for those of a batch at once and gets a list of _Read."""

    def __init__(self, dataset, mapper, seed: int, skip: bool):
        self.dataset = dataset
        self.mapper = mapper
        self.seed = seed
        self.skip = skip

    def __getitems__(self, positions: list[int]) -> list[_Read]:
        with _preserved_generators():
            return [self._read(position) for position in positions]

    def _read(self, position: int) -> _Read:
        size = len(self.dataset)
        epoch, index = divmod(position, size)
        order = _permutation(self.seed, epoch, size)
        skipped = []
        for step in range(size):
            pair = self.dataset[int(order[(index + step) % size])]
            try:
                # With `step`, because a substitute must not repeat the draw that failed (see CopyPaste).
                _seed(self.seed, _SAMPLE, position, step)
                sample = self.mapper(pair)
            except UserError as error:
                if not (self.skip and isinstance(error, BadPair)):
                    return _Read(None, error, skipped)
                skipped.append((error.file_name or pair["file_name"], str(error)))
                continue
            if sample is not None:
                return _Read(sample, None, skipped)
            skipped.append((pair["file_name"], "the mapper returned None"))
        error = UserError(f"none of the {size} training pairs can be used; the first: {skipped[0][1]}")
        return _Read(None, error, [])


class _Batches(Sampler):
    """An infinite sampler over the positions of one rank, in batches."""

    def __init__(self, start: int, total: int, rank: int, world: int):
        self.start = start
        self.total = total
        self.share = total // world
        self.offset = rank * self.share

    def __iter__(self) -> Iterator[list[int]]:
        for batch in itertools.count(self.start):
            first = batch * self.total + self.offset
            yield list(range(first, first + self.share))


def _entropy(*numbers: int) -> np.ndarray:
    return np.random.SeedSequence(numbers).generate_state(4)


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    # RandomState's stream never changes; that of a Generator may change with numpy's version.
    return np.random.RandomState(_entropy(seed, _ORDER, epoch)).permutation(size)


def _seed(*numbers: int) -> None:
    """Seed Python's, numpy's and torch's CPU generator."""
    entropy = _entropy(*numbers)
    random.seed(entropy.tobytes())
    np.random.seed(entropy)
    # torch.manual_seed would also reseed the CUDA generators.
    torch.default_generator.manual_seed(int(entropy[0]))


@contextlib.contextmanager
def _preserved_generators():
    """Restore the state of Python's, numpy's and torch's CPU generator afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
