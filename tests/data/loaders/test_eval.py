"""The loader of test samples: its errors, and signals to its processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest

from ivtuning.data.images import BadPair
from ivtuning.data.loaders.eval import build_test_loader


def mapper(record: dict) -> dict:
    if record["id"] == 3:
        raise BadPair("3.png is damaged: replace it", "3.png")
    return record


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_is_named_in_one_line_from_a_worker_too(workers):
    seen = []
    with pytest.raises(BadPair, match="^3.png is damaged: replace it$"):
        for batch in build_test_loader([{"id": i} for i in range(5)], mapper, num_workers=workers):
            seen += [sample["id"] for sample in batch]
    assert seen == [0, 1, 2]


def test_a_signal_to_the_whole_job_leaves_the_workers_to_their_parent():
    records = [{"id": 0}] * 40
    batches = iter(build_test_loader(records, mapper, num_workers=1))
    next(batches)  # the worker is ready
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGINT)
    os.system(f"kill -TERM {worker.pid}")  # not from its parent
    time.sleep(0.2)
    assert len(list(batches)) == 39
    del batches
    assert not multiprocessing.active_children()
