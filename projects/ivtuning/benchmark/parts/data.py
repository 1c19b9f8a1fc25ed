"""The paired loader, against decoding the same files in the same number of processes."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import detectron2.data.transforms as T
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from ...data.datasets.detection import register_pairs, training_dicts
from ...data.loaders.train import build_train_loader
from ...data.mappers.pairs import PairedDatasetMapper
from ...data.synthetic.generate import generate
from ...errors import UserError
from ..measures.timing import interleaved, ratio, summary
from ..options import Options
from ..report import Result, Row

SIZE = (640, 480)


def measure(options: Options) -> Result:
    """Row loader_over_decode: images per second, of which a pair has two."""
    if options.dataset:
        return _measure(options, training_dicts(options.dataset), options.dataset)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "synthetic")
        generate(root, train=options.pairs, val=1, size=SIZE)
        register_pairs("benchmark_train", root / "annotations" / "train.json", root)
        name = f"{options.pairs} synthetic pairs of {SIZE[0]} x {SIZE[1]} px"
        return _measure(options, training_dicts("benchmark_train"), name)


def _measure(options: Options, dicts: list[dict], name: str) -> Result:
    count = min(len(dicts), options.pairs) // options.batch
    if not count:
        raise UserError(f"{len(dicts)} pairs make no batch of {options.batch}: give a smaller --batch")
    mapper = PairedDatasetMapper(is_train=True, augmentations=[T.RandomFlip(horizontal=True)])
    loaders = {
        "loader": build_train_loader(dicts, mapper, options.batch, options.workers),
        # As endless as the loader, so that its workers read ahead as far.
        "decode": DataLoader(
            _Decoded(dicts),
            batch_sampler=_Rounds(len(dicts), options.batch),
            num_workers=options.workers,
            collate_fn=list,
        ),
    }
    runs = {key: lambda loader=loader: _take(loader, count) for key, loader in loaders.items()}
    times = interleaved(runs, options.repeats, "loader")
    images = 2 * count * options.batch
    result = Result(
        f"{name}, {images // 2} of them a round, batch {options.batch}, {options.workers} workers; the "
        "loader reads, checks, flips, makes boxes and tensors; decoding alone reads both files into arrays"
    )
    result.raw["seconds"] = summary(times)
    result.raw["images_per_second"] = {key: images / s["median"] for key, s in summary(times).items()}
    result.rows["loader_over_decode"] = Row.of(ratio(times, "decode", "loader"))
    return result


def _take(batches: Iterable, count: int) -> None:
    for _ in itertools.islice(batches, count):
        pass


class _Decoded(torch.utils.data.Dataset):
    """Maps an index to both images of a pair as stored: uint8 or uint16 tensors."""

    def __init__(self, dicts: list[dict]):
        self.files = [(d["file_name"], d["ir_file_name"]) for d in dicts]

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        return [torch.from_numpy(np.array(Image.open(file))) for file in self.files[index]]


class _Rounds(torch.utils.data.Sampler):
    """An infinite sampler of batches of shuffled indices."""

    def __init__(self, size: int, batch: int):
        self.size, self.batch = size, batch

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng(0)
        stream = itertools.chain.from_iterable(rng.permutation(self.size).tolist() for _ in itertools.count())
        while True:
            yield list(itertools.islice(stream, self.batch))
