"""The demo's label maps: SegFormer's decoder on the same trunk and scenes, three ways."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from detectron2.structures.masks import polygons_to_bitmask
from omegaconf import DictConfig

from ..comparison.models import final
from ..data.synthetic.generate import LABELS
from ..predictor import Predictor
from ..visualization.gallery import read_dataset
from .rows import COSTS, Table, layout
from .task import METHODS, Task

FIGURES = ("mIoU", "mIoU-day", "mIoU-night", *(f"IoU-{name}" for name in LABELS))
FOUND = 0.5  # an object counts as found where this share of its pixels has its class


def figures(results: dict) -> dict:
    """The figures of one row, on 0..100, those of :func:`recall` aside."""
    return {key.replace("-", "_"): results["sem_seg"][key] for key in FIGURES}


TASK = Task(
    title="label maps",
    folder="segmentation",
    config="configs/synthetic/seg_ivtuning.py",
    methods=METHODS,
    others=("model.proposal_generator", "model.roi_heads"),
    figures=figures,
    dataset="synthetic_seg_val",
    drawn=tuple(METHODS),
)


def train(configs: Mapping[str, DictConfig]) -> dict:
    """Train and evaluate all rows, and count the objects that they find."""
    return {"rows": [row | recall(configs[row["name"]]) for row in TASK.train(configs)]}


def recall(cfg: DictConfig) -> dict[str, float]:
    """The share of the validation set's objects that the trained model of `cfg` finds.

    An object is found if at least half of its pixels have its class. False alarms do not count here; in the
    IoU they do.

    Returns:
        {"found_both" | "found_visible" | "found_infrared": 0..100}, by the images that show the object.
    """
    predict = Predictor(cfg, final(cfg))
    records, kinds = read_dataset("synthetic_val")
    classes = list(LABELS)
    hits = defaultdict(list)
    for record in records:
        labels = predict(record)
        for a in record["annotations"]:
            polygons = [np.asarray(p) for p in a["segmentation"]]
            mask = polygons_to_bitmask(polygons, *labels.shape)
            share = np.mean(labels[mask] == classes.index(kinds[a["category_id"]]))
            hits[a["modality"]].append(share >= FOUND)
    return {f"found_{shown}": 100 * float(np.mean(values)) for shown, values in sorted(hits.items())}


def table(results: dict) -> Table:
    """The rows as a table, with their conditions below it."""
    rows = results["segmentation"]["rows"]
    columns = [
        ("", "name", "{}"),
        ("mIoU", "mIoU", "{:.1f}"),
        ("mIoU\nday", "mIoU_day", "{:.1f}"),
        ("mIoU\nnight", "mIoU_night", "{:.1f}"),
        *((f"IoU\n{name}", f"IoU_{name}", "{:.1f}") for name in LABELS if name != "background"),
        ("found\nboth", "found_both", "{:.0f}%"),
        ("found\nvis only", "found_visible", "{:.0f}%"),
        ("found\nir only", "found_infrared", "{:.0f}%"),
        *COSTS,
    ]
    background = [row["IoU_background"] for row in rows]
    notes = [
        f"The same scenes and trunk, which has learned from boxes; {rows[0]['iterations']} iterations a row, "
        "one seed, recipe of the boxes.",
        f"mIoU: mean over {len(LABELS)} classes, the background among them (IoU {min(background):.1f} to "
        f"{max(background):.1f}).",
        f"found: objects, shown by both images or only one, of which {FOUND:.0%} of the pixels get their "
        "class. False alarms do not count here; in the IoU they do.",
        f"Adapter: as above; neck and head add {rows[-1]['task_mb']:.2f} MB.",
    ]
    return layout(rows, columns, notes)
