"""The loader of test samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from detectron2.data.common import DatasetFromList
from detectron2.data.samplers import InferenceSampler
from torch.utils.data import DataLoader, Dataset

from ...errors import UserError
from .workers import leave_signals_to_parent


def build_test_loader(
    dataset: list[dict], mapper: Callable, batch_size: int = 1, num_workers: int = 0
) -> DataLoader:
    """A loader of lists of mapped samples, each once and in order; each rank reads its share.

    Unlike detectron2's it has a batch size, which release 0.6 lacks, and raises a UserError of the mapper as
    it is, whether in a worker or not.
    """
    mapped = _Mapped(DatasetFromList(dataset, copy=False), mapper)
    return _TestLoader(
        mapped,
        batch_size,
        sampler=InferenceSampler(len(mapped)),
        num_workers=num_workers,
        collate_fn=list,
        worker_init_fn=leave_signals_to_parent,
    )


class _TestLoader(DataLoader):
    """The loader that :func:`build_test_loader` returns."""

    def __iter__(self) -> Iterator[list[dict]]:
        for batch in super().__iter__():
            for sample in batch:
                if isinstance(sample, UserError):
                    raise sample
            yield batch


class _Mapped(Dataset):
    """Mapped dicts. Errors travel as values: torch turns a worker's exception into text."""

    def __init__(self, dicts: DatasetFromList, mapper: Callable):
        self.dicts, self.mapper = dicts, mapper

    def __len__(self) -> int:
        return len(self.dicts)

    def __getitem__(self, index: int) -> dict | UserError:
        try:
            return self.mapper(self.dicts[index])
        except UserError as error:
            return error
