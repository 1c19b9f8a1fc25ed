"""Predicts the pairs of a set or of folders, and writes the predictions as files."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.image_files import BadPair
from ..data.loaders.eval import build_test_loader
from ..errors import UserError
from ..utils.files import atomic_write, make_folder, remove_empty, remove_temporaries
from ..utils.locks import FolderLock
from ..utils.progress import track
from ..visualization.panels import class_name, picture_stems, save_image
from .journal import Journal
from .predictor import Predictor
from .results import COLUMNS, classes_of, kind_of, results_of, rows_of

logger = logging.getLogger("ivtuning")
JSON, TABLE, SUMMARY, LABELS, PICTURES = (
    "predictions.json",
    "predictions.csv",
    "summary.json",
    "labels",
    "pictures",
)


@dataclass(frozen=True)
class Settings:
    """How a set is predicted.

    Attributes:
        batch: pairs in a batch.
        workers: processes that read images; 0 reads in this one.
        skip: leave out a pair that cannot be read; otherwise it ends the work.
        draw: also write pictures.
        threshold: least score of a box in the table and in pictures.
    """

    batch: int = 1
    workers: int = 0
    skip: bool = False
    draw: bool = False
    threshold: float = 0.5


def predict_records(
    make: Callable[[], Predictor],
    records: Sequence[dict],
    output: Path,
    settings: Settings,
    options: Mapping[str, Any],
    dataset: str | None = None,
) -> dict:
    """Predict all pairs, except for those that an earlier call has finished in `output`.

    The folder gets ``predictions.json``, ``predictions.csv`` and ``summary.json`` when all is done. Until
    then it holds ``progress.jsonl``, and the label maps and pictures of finished pairs. A call that fails
    before the first pair leaves no trace.

    Args:
        make: loads the model.
        records: dataset dicts with "image_id" and "file_name".
        options: what the predictions depend on besides `settings`; a later call with others is refused.
        dataset: the registered set that `records` are from; None: image files of the user's own.

    Returns:
        What ``summary.json`` holds.

    Raises:
        UserError: a folder of other options, or one that cannot be written; a pair that cannot be read.
    """
    if not records:
        raise UserError("there is no pair to predict")
    options = {
        **options,
        "batch": settings.batch,
        "draw": settings.draw,
        "threshold": settings.threshold,
    }
    new = make_folder(output)
    try:
        lock = FolderLock(output)
        try:
            journal = Journal(output, options)
            if not len(journal) and (output / JSON).exists():
                raise UserError(
                    f"{output / JSON} is of another tool: move it away, or choose another --output"
                )
            with contextlib.closing(journal):
                return _Run(make(), records, output, settings, journal, dataset).run()
        finally:
            lock.release()
    finally:
        remove_empty([output / LABELS, output / PICTURES, *new])


class _Run:
    """One call of :func:`predict_records`, with its folder locked."""

    def __init__(
        self,
        predict: Predictor,
        records: Sequence[dict],
        output: Path,
        settings: Settings,
        journal: Journal,
        dataset: str | None,
    ):
        self.predict, self.records, self.output, self.settings = predict, records, output, settings
        self.journal = journal
        self.classes, self.categories = classes_of(predict.classes, dataset)
        self.stems = picture_stems(records)
        self.skipped: list[dict] = []
        self.seconds: list[float] = []

    def run(self) -> dict:
        for folder in (self.output, self.output / LABELS, self.output / PICTURES):
            remove_temporaries(folder)
        done = len(self.journal)
        todo = [i for i, record in enumerate(self.records) if record not in self.journal]
        start = time.perf_counter()
        with track((), "predicting", len(todo)) as bar:
            bar.unit = " images"
            for batch in self._batches(todo):
                self._batch(batch)
                bar.update(len(batch))
        seconds = time.perf_counter() - start
        entries = [entry for record in self.records if (entry := self.journal.entry(record))]
        if not entries:
            raise UserError(f"none of the {len(self.records)} pairs can be read: {self.skipped[0]['why']}")
        return self._write(entries, len(self.journal) - done, seconds)

    def _batches(self, todo: Sequence[int]) -> Iterable[list[dict]]:
        """The mapped samples of the records at these positions."""
        numbered = [{**self.records[i], "number": i} for i in todo]
        mapper = _Lenient(self.predict.mapper, self.settings.skip)
        # The loader takes no empty list.
        return build_test_loader(numbered, mapper, self.settings.batch, self.settings.workers) if todo else ()

    def _batch(self, batch: list[dict]) -> None:
        samples = [sample for sample in batch if "bad_pair" not in sample]
        for sample in batch:
            if "bad_pair" in sample:
                logger.warning("left out: %s", sample["bad_pair"])
                self.skipped.append({"file_name": sample["file_name"], "why": str(sample["bad_pair"])})
        if not samples:
            return
        start = time.perf_counter()
        predictions = self.predict.run(samples)
        self.seconds.append(time.perf_counter() - start)
        self.journal.add([self._entry(s, p) for s, p in zip(samples, predictions, strict=True)])

    def _entry(self, sample: dict, prediction: Any) -> dict:
        """What is noted of an image, whose files are written before."""
        number = sample["number"]
        record, stem = self.records[number], self.stems[number]
        kind = kind_of(prediction)
        entry = {"image_id": record["image_id"], "file_name": record["file_name"], "kind": kind}
        entry["results"] = results_of(prediction, record["image_id"], self.categories)
        if kind == "labels":
            entry["label_map"] = f"{LABELS}/{stem}.png"
            save_image(prediction, self.output / entry["label_map"])
        if self.settings.draw:
            picture = self.predict.draw(record, prediction, threshold=self.settings.threshold)
            save_image(picture, self.output / PICTURES / f"{stem}.png")
        return entry

    def _write(self, entries: Sequence[dict], images: int, seconds: float) -> dict:
        """Write the files that hold all predictions.

        Args:
            entries: what is noted of all finished images, in the order of the records.
            images: how many of them this call has predicted, in `seconds`.
        """
        kind = entries[0]["kind"]
        results: list[dict] = []
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(COLUMNS[kind])
        for entry in entries:
            name, found = entry["file_name"], entry["results"]
            writer.writerows(
                rows_of(kind, name, found, self.classes, self.categories, self.settings.threshold)
            )
            if kind == "boxes":
                results += found
            else:
                more = {key: entry[key] for key in ("file_name", "label_map") if key in entry}
                results += [{**more, **result} for result in found]
        summary = {
            "images": images,
            "finished_before": len(entries) - images,
            "skipped": self.skipped,
            "seconds": round(seconds, 3),
            "images_per_second": round(images / seconds, 3) if images else None,
            "latency_ms": self._latency(),
            "batch": self.settings.batch,
            "predicts": kind,
            "categories": [
                {"id": number, "name": class_name(label, self.classes)}
                for label, number in enumerate(self.categories)
            ],
        }
        for name, text in (
            (JSON, json.dumps(results)),
            (TABLE, table.getvalue()),
            (SUMMARY, json.dumps(summary, indent=2) + "\n"),
        ):
            with atomic_write(self.output / name) as temp:
                temp.write_text(text, encoding="utf-8", errors="surrogateescape")
        return summary

    def _latency(self) -> dict[str, float] | None:
        """Percentiles of the model's time for a batch. The first one warms up, and counts only if alone."""
        seconds = self.seconds[1:] or self.seconds
        if not seconds:
            return None
        points = (50, 90, 99)
        values = np.percentile(seconds, points)
        return {f"p{p}": round(1e3 * float(v), 3) for p, v in zip(points, values, strict=True)}


class _Lenient:
    """A mapper that, where bad pairs are left out, gives their error in place of a sample."""

    def __init__(self, mapper: Callable[[dict], dict], skip: bool):
        self.mapper, self.skip = mapper, skip

    def __call__(self, record: dict) -> dict:
        try:
            return self.mapper(record)
        except BadPair as error:
            if not self.skip:
                raise
            return {"file_name": record["file_name"], "bad_pair": error}
