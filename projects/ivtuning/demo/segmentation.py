"""The demo's label maps: SegFormer's decoder on the same trunk and scenes, three ways."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.structures.masks import polygons_to_bitmask
from omegaconf import DictConfig

from ..data.synthetic.generate import LABELS
from ..predictor import Predictor
from ..visualization.gallery import draw_records, painter_of, read_dataset
from .detection import PICTURES
from .rows import COSTS, Table, final, layout, train_row

CONFIG = "configs/synthetic/seg_ivtuning.py"
# The table's rows, and the method of each.
ROWS = {"visible only": "visible", "full": "Full", "IV-tuning": "IVTuning"}
FOUND = 0.5  # an object counts as found where this share of its pixels has its class


def own(overrides: Sequence[str]) -> list[str]:
    """The `overrides` whose keys a segmentor's config has."""
    return [o for o in overrides if not o.startswith(("model.proposal_generator", "model.roi_heads"))]


def row(name: str, cfg: DictConfig) -> dict:
    """Train and evaluate one row."""

    def figures(results: dict) -> dict:
        scores = results["sem_seg"]
        keys = ("mIoU", "mIoU-day", "mIoU-night", *(f"IoU-{name}" for name in LABELS))
        return {key.replace("-", "_"): scores[key] for key in keys}

    return train_row(name, cfg, figures) | recall(cfg)


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


def draw(configs: dict[str, DictConfig], output: Path) -> Path:
    """Label maps of all rows, on the same pairs of the validation set as the boxes."""
    models = {name: Predictor(cfg, final(cfg)) for name, cfg in configs.items()}
    records, _ = read_dataset("synthetic_seg_val")
    return draw_records(
        records[:: max(1, len(records) // PICTURES)],
        painter_of("synthetic_seg_val", threshold=0.0),
        lambda record: {name: predict(record) for name, predict in models.items()},
        output,
        grid=True,
        facts={"source": "synthetic_seg_val", "models": ", ".join(models)},
    )
