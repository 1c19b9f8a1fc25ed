"""Predicts pairs of files, sets or videos, and writes the predictions as files."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..evaluation.saliency import gray_levels, is_saliency, labels_of
from ..utils.files import atomic_write, make_folder, remove_empty, remove_temporaries
from ..utils.locks import FolderLock
from ..utils.progress import track
from ..visualization.panels import class_name, save_image
from .journal import Journal
from .outputs import write_predictions
from .predictor import Predictor
from .results import classes_of, kind_of, results_of
from .sources import Lenient, Source
from .video_drawing import draw_video
from .video_pairs import VideoPairs

logger = logging.getLogger("ivtuning")
JSON, TABLE, SUMMARY, LABELS, SALIENCY, PICTURES, VIDEO = (
    "predictions.json",
    "predictions.csv",
    "summary.json",
    "labels",
    "saliency",
    "pictures",
    "predictions.mp4",
)
FOLDERS = (LABELS, SALIENCY, PICTURES)


@dataclass(frozen=True)
class Settings:
    """How pairs are predicted.

    Attributes:
        batch: pairs in a batch.
        workers: processes that read images; 0 reads in this one. A video has its own thread instead.
        skip: leave out a pair that cannot be read; otherwise it ends the work.
        draw: also write pictures, or a video.
        threshold: least score of a box in the table and in pictures.
    """

    batch: int = 1
    workers: int = 0
    skip: bool = False
    draw: bool = False
    threshold: float = 0.5

    def options(self, others: Mapping[str, Any]) -> dict[str, Any]:
        """What predictions depend on: `others`, and what settings change in the files."""
        return {**others, "batch": self.batch, "draw": self.draw, "threshold": self.threshold}


def predict_records(
    make: Callable[[], Predictor],
    source: Source,
    output: Path,
    settings: Settings,
    options: Mapping[str, Any],
    dataset: str | None = None,
) -> dict:
    """Predict all pairs, except for those that an earlier call has finished in `output`.

    The folder gets ``predictions.json``, ``predictions.csv`` and ``summary.json`` when all is done. Until
    then it holds ``progress.jsonl``, and the label maps, gray maps of salient objects and pictures of
    finished pairs. The pictures of a video are ``predictions.mp4``, which is drawn last. A call that fails
    before the first pair leaves no trace.

    Args:
        make: loads the model.
        source: the pairs.
        options: what the predictions depend on besides `settings`; a later call with others is refused.
        dataset: the registered set that the pairs are from; None: files of the user's own.

    Returns:
        What ``summary.json`` holds.

    Raises:
        UserError: a folder of other options, or one that cannot be written; a pair that cannot be read.
    """
    if not len(source):
        raise UserError("there is no pair to predict")
    new = make_folder(output)
    try:
        lock = FolderLock(output)
        try:
            journal = Journal(output, settings.options(options))
            if not len(journal) and (output / JSON).exists():
                raise UserError(
                    f"{output / JSON} is of another tool: move it away, or choose another --output"
                )
            with contextlib.closing(journal):
                return _Run(make(), source, output, settings, journal, dataset).run()
        finally:
            lock.release()
    finally:
        remove_empty([*(output / folder for folder in FOLDERS), *new])


class _Run:
    """One call of :func:`predict_records`, with its folder locked."""

    def __init__(
        self,
        predict: Predictor,
        source: Source,
        output: Path,
        settings: Settings,
        journal: Journal,
        dataset: str | None,
    ):
        self.predict, self.source, self.output, self.settings = predict, source, output, settings
        self.journal = journal
        self.classes, self.categories = classes_of(predict.classes, dataset)
        self.skipped: list[dict] = []
        self.seconds: list[float] = []

    def run(self) -> dict:
        for folder in (self.output, *(self.output / name for name in FOLDERS)):
            remove_temporaries(folder)
        done = len(self.journal)
        todo = [i for i, record in enumerate(self._records()) if record not in self.journal]
        mapper = Lenient(self.predict.mapper, self.settings.skip)
        batches = self.source.batches(todo, mapper, self.settings.batch, self.settings.workers)
        start = time.perf_counter()
        with contextlib.closing(batches), track((), "predicting", len(todo)) as bar:
            bar.unit = f" {self.source.unit}"
            for batch in batches:
                self._batch(batch)
                bar.update(len(batch))
        seconds = time.perf_counter() - start
        first = next(self._entries(), None)
        if first is None:
            raise UserError(f"none of the {len(self.source)} pairs can be read: {self.skipped[0]['why']}")
        new = len(self.journal) - done
        summary = self._write(first["kind"], new, seconds)
        video = self.output / VIDEO
        source, draw = self.source, self.settings.draw
        if draw and isinstance(source, VideoPairs) and (new or not video.exists()):
            threshold = self.settings.threshold
            draw_video(video, source, self.journal, self.predict, self.categories, threshold)
        return summary

    def _records(self) -> Iterator[dict]:
        return (self.source[number] for number in range(len(self.source)))

    def _entries(self) -> Iterator[dict]:
        """What is noted of the finished images, in their order."""
        return (entry for record in self._records() if (entry := self.journal.entry(record)))

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
        record, stem = self.source[number], self.source.stem(number)
        kind = kind_of(prediction)
        noted = ("image_id", "file_name", *self.source.fields)
        entry = {**{key: record[key] for key in noted}, "kind": kind}
        entry["results"] = results_of(prediction, record["image_id"], self.categories)
        if kind == "labels":
            entry["label_map"] = f"{LABELS}/{stem}.png"
            save_image(labels_of(prediction), self.output / entry["label_map"])
        if is_saliency(prediction):
            entry["saliency_map"] = f"{SALIENCY}/{stem}.png"
            save_image(gray_levels(prediction), self.output / entry["saliency_map"])
        if self.settings.draw and not isinstance(self.source, VideoPairs):
            picture = self.predict.draw(record, prediction, threshold=self.settings.threshold)
            save_image(picture, self.output / PICTURES / f"{stem}.png")
        return entry

    def _write(self, kind: str, images: int, seconds: float) -> dict:
        """Write the files that hold all predictions, which are of one kind.

        Args:
            images: how many images this call has predicted, in `seconds`.
        """
        count = write_predictions(
            self._entries(),
            self.output / JSON,
            self.output / TABLE,
            fields=self.source.fields,
            classes=self.classes,
            categories=self.categories,
            threshold=self.settings.threshold,
        )
        summary = {
            "images": images,
            "finished_before": count - images,
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
        with atomic_write(self.output / SUMMARY) as temp:
            temp.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8", errors="surrogateescape")
        return summary

    def _latency(self) -> dict[str, float] | None:
        """Percentiles of the model's time for a batch. The first one warms up, and counts only if alone."""
        seconds = self.seconds[1:] or self.seconds
        if not seconds:
            return None
        points = (50, 90, 99)
        values = np.percentile(seconds, points)
        return {f"p{p}": round(1e3 * float(v), 3) for p, v in zip(points, values, strict=True)}
