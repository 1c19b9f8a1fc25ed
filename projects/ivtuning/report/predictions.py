"""The predictions of a run's model on its test set: made where they are missing, kept in the run's folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..config import set_names
from ..data.catalog import listed, metadata
from ..engine.checks import check_evaluation, check_onnx
from ..errors import UserError
from ..export.runner import read_metadata
from ..predictor import Prediction, Predictor
from ..predictor.folder import JSON, SUMMARY, Settings, predict_records
from ..predictor.journal import NAME, Journal
from ..predictor.results import prediction_of
from ..predictor.sources import FilePairs
from ..utils.files import file_identity
from ..utils.text import read_json, read_text
from ..visualization.gallery import read_dataset
from .runs import Evaluated, Run

FOLDER = "predictions"  # in the run's folder
_MAKER = {"made_by": "report"}


@dataclass(frozen=True)
class Predictions:
    """Predictions for the records of a set.

    Attributes:
        dataset: name of the registered set.
        records: its dataset dicts, in the order of the set.
        classes: names by label.
        weights: what predicted, as the page shows it.
        kind: "boxes", "oriented", "labels" or "scores".
        entries: of each image by "image_id": the results in the form of COCO's, or one entry that names the
            label map or has the scores.
        folder: where the files are.
        categories: category ids by label.
    """

    dataset: str
    records: list[dict]
    classes: list[str]
    weights: str
    kind: str
    entries: dict[Any, list[dict]]
    folder: Path
    categories: list[int]

    def of(self, record: dict) -> Prediction:
        """The prediction for one record; see :func:`..predictor.results.prediction_of`."""
        entries = self.entries.get(record["image_id"], [])
        entry = {"results": entries, **(entries[0] if entries else {})}
        size = record.get("height", 0), record.get("width", 0)  # those of classes need not state it
        return prediction_of(entry, self.folder, self.categories, size)


def predict_run(run: Run, weights: str | None = None) -> Predictions | None:
    """The predictions for the test set, read from the run's folder or made by its model first.

    Predictions of other weights, of another config or of another test set are made again.

    Args:
        weights: a checkpoint, or its name; None: see :attr:`.runs.Run.model`.

    Returns:
        None where the run has no checkpoint yet.

    Raises:
        UserError: weights or data that are missing or do not belong together, or several test sets.
    """
    model = Evaluated(weights) if weights else run.model
    if model is None:
        return None
    (file, adapter, onnx), cfg = model, run.cfg
    names = listed(set_names(cfg, "test"))
    if len(names) > 1:
        raise UserError(
            f"the run is evaluated on {', '.join(names)}: name one of them, dataloader.test.dataset.names="
            f"{names[0]}"
        )
    if onnx:
        check_onnx(cfg, file, read_metadata(file))
    else:
        check_evaluation(cfg, file, adapter)
    records, classes = read_dataset(names[0])
    test = cfg.dataloader.test
    settings = Settings(test.get("batch_size", 1), test.get("num_workers", 0))
    options = {
        **_MAKER,
        "weights": file_identity(file),
        "adapter": file_identity(adapter),
        "set": [names[0], file_identity(metadata(names[0]).get("json_file"))],
        "config": _digest(cfg.model, test),
    }
    folder = run.path / FOLDER
    if not _is_finished(folder, records, options, settings):
        make = partial(Predictor.from_onnx, file, cfg) if onnx else partial(Predictor, cfg, file, adapter)
        predict_records(make, FilePairs(records), folder, settings, options, names[0])
    return _read(folder, names[0], records, list(classes), _shown(file, adapter))


def _read(folder: Path, name: str, records: list[dict], classes: list[str], weights: str) -> Predictions:
    """The predictions in a folder that is finished."""
    summary, entries = read_json(folder / SUMMARY), defaultdict(list)
    for entry in read_json(folder / JSON):
        entries[entry["image_id"]].append(entry)
    categories = [category["id"] for category in summary["categories"]]
    return Predictions(name, records, classes, weights, summary["predicts"], entries, folder, categories)


def _is_finished(folder: Path, records: list[dict], options: dict, settings: Settings) -> bool:
    """Whether the folder holds predictions for all records; what an earlier report left of others goes."""
    if not (folder / NAME).is_file():
        return False
    try:
        journal = Journal(folder, settings.options(options))
    except UserError:
        if not _is_ours(folder / NAME):
            raise
        shutil.rmtree(folder)
        return False
    return all(record in journal for record in records) and (folder / SUMMARY).is_file()  # the last file


def _is_ours(journal: Path) -> bool:
    """Whether a report has made the folder of this file, rather than the user."""
    try:
        options = json.loads(read_text(journal).splitlines()[0])["options"]
    except (ValueError, LookupError, TypeError):
        return False
    return isinstance(options, dict) and _MAKER.items() <= options.items()


def _digest(*nodes: DictConfig) -> str:
    """A hash of parts of a config, with the values that they refer to."""
    text = "".join(OmegaConf.to_yaml(node, resolve=True) for node in nodes)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _shown(weights: str, adapter: str | None) -> str:
    names = [name if "://" in name else os.path.basename(name) for name in (weights, adapter) if name]
    return " + ".join(names)
