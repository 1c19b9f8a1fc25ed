"""Where the pairs that are predicted come from: image files, here, or videos."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol, TypeAlias

from ..data.image_files import BadPair
from ..data.loaders.eval import build_test_loader
from ..visualization.panels import picture_stems

Mapper: TypeAlias = Callable[[dict], dict]


class Source(Protocol):
    """Pairs to predict.

    Attributes:
        unit: what a pair is called in progress and messages.
        fields: keys of a dataset dict that the results state beside the file.
    """

    unit: str
    fields: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> dict:
        """A dataset dict with "image_id" and "file_name", and with `fields`."""

    def stem(self, number: int) -> str:
        """The name of the files that are made of one pair, without suffix."""

    def batches(
        self, numbers: Sequence[int], mapper: Mapper, size: int, workers: int
    ) -> Generator[list[dict], None, None]:
        """Mapped samples in batches; each has its dataset dict's keys, and its position as "number".

        Args:
            numbers: positions, ascending.
            workers: processes that read, where pairs can be read independently.
        """


class FilePairs:
    """Pairs of image files, as a :class:`Source`.

    Args:
        records: dataset dicts with "image_id" and "file_name".
    """

    unit = "images"
    fields: tuple[str, ...] = ()

    def __init__(self, records: Sequence[dict]):
        self.records = records
        self._stems = picture_stems(records)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, number: int) -> dict:
        return self.records[number]

    def stem(self, number: int) -> str:
        return self._stems[number]

    def batches(
        self, numbers: Sequence[int], mapper: Mapper, size: int, workers: int
    ) -> Generator[list[dict], None, None]:
        numbered = [{**self.records[i], "number": i} for i in numbers]
        if numbered:  # the loader takes no empty list
            yield from build_test_loader(numbered, mapper, size, workers)


class Lenient:
    """A mapper that gives the error of a bad pair in place of a sample, as "bad_pair", where it may."""

    def __init__(self, mapper: Mapper, skip: bool):
        self.mapper, self.skip = mapper, skip

    def __call__(self, record: dict) -> dict[str, Any]:
        try:
            if "bad_pair" in record:  # its source could not read it
                raise record["bad_pair"]
            return self.mapper(record)
        except BadPair as error:
            if not self.skip:
                raise
            return {"file_name": record["file_name"], "bad_pair": error}
