"""Predictions as entries of a JSON file and as lines of a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Boxes, BoxMode, Instances, RotatedBoxes
from PIL import Image

from ..data.catalog import metadata
from ..data.classes import class_names
from ..errors import UserError
from ..evaluation.oriented import oriented_results
from ..evaluation.saliency import LEVELS, labels_of
from ..visualization.panels import class_name
from .predictor import Prediction

# Columns of the table, by what is predicted, after those that say of which image.
COLUMNS = {
    "boxes": ("class", "score", "x", "y", "width", "height"),
    "oriented": ("class", "score", "center_x", "center_y", "width", "height", "angle"),
    "labels": ("class", "pixels", "share"),
    "scores": ("class", "score"),
}


def kind_of(prediction: Prediction) -> str:
    """The key of COLUMNS for a prediction. Salient objects are labels as well."""
    if isinstance(prediction, np.ndarray):
        return "labels"
    if isinstance(prediction, Instances):
        return "oriented" if isinstance(prediction.pred_boxes, RotatedBoxes) else "boxes"
    return "scores"


def classes_of(classes: Sequence[str], dataset: str | None) -> tuple[list[str], list[int]]:
    """Names and category ids by label, both empty where the classes are unknown.

    The ids are those of the set's JSON if it has boxes of the model's classes, otherwise 0, 1, ...

    Args:
        classes: the model's, by label; if they are unknown, they are taken to be the set's.
        dataset: name of a registered set, which has been read; None for images of no set.
    """
    facts: Any = metadata(dataset) if dataset else {}
    ids = facts.get("thing_dataset_id_to_contiguous_id")
    if dataset:
        classes = classes or class_names(dataset)
    if ids:
        own = {facts.thing_classes[label]: number for number, label in ids.items()}
        if sorted(own) == sorted(classes):
            return list(classes), [own[name] for name in classes]
    return list(classes), list(range(len(classes)))


def results_of(prediction: Prediction, image_id: Any, categories: Sequence[int]) -> list[dict]:
    """The JSON entries of one image's prediction.

    Boxes have one each, in the form of COCO's results. A label map has {"image_id", "pixels"}, the latter
    [class, number of pixels] of each class that it has; class scores are {"image_id", "scores"}.

    Args:
        categories: category ids by label; if there are none, a label is its own category id.

    Raises:
        UserError: a label that has no category id.
    """
    if isinstance(prediction, np.ndarray):
        labels, pixels = np.unique(labels_of(prediction), return_counts=True)
        return [{"image_id": image_id, "pixels": np.stack([labels, pixels], 1).tolist()}]
    if not isinstance(prediction, Instances):
        return [{"image_id": image_id, "scores": prediction.float().tolist()}]
    oriented = isinstance(prediction.pred_boxes, RotatedBoxes)
    results = (oriented_results if oriented else instances_to_coco_json)(prediction, image_id)
    for result in results:
        label = result["category_id"]
        if categories and label >= len(categories):
            raise UserError(
                f"the model predicts class {label}, but the set or the adapter has only {len(categories)} "
                "classes: set the model's num_classes"
            )
        result["category_id"] = categories[label] if categories else label
    return results


def prediction_of(
    entry: Mapping[str, Any], folder: Path, categories: Sequence[int], size: tuple[int, int]
) -> Prediction:
    """The prediction that a journal's entry notes, up to rounding of boxes and of maps of salient objects.

    Args:
        folder: where the files are that the entry names.
        categories: category ids by label.
        size: (height, width) of the image, pixels.
    """
    results = entry["results"]
    if "saliency_map" in entry:
        return np.asarray(Image.open(folder / entry["saliency_map"]), np.float32) / (LEVELS - 1)
    if "label_map" in entry:
        return np.asarray(Image.open(folder / entry["label_map"]))
    if results and "scores" in results[0]:
        return torch.tensor(results[0]["scores"])
    label_of = {number: label for label, number in enumerate(categories)}
    prediction = Instances(size)
    prediction.pred_boxes = boxes_of(results)
    prediction.scores = torch.tensor([result["score"] for result in results])
    labels = [label_of.get(result["category_id"], result["category_id"]) for result in results]
    prediction.pred_classes = torch.tensor(labels, dtype=torch.int64)
    if results and "segmentation" in results[0]:
        masks = [mask_util.decode(result["segmentation"]) for result in results]
        prediction.pred_masks = torch.from_numpy(np.stack(masks)).bool()
    return prediction


def boxes_of(results: Sequence[dict]) -> Boxes | RotatedBoxes:
    """The boxes of results in the form of COCO's; those of five numbers are oriented."""
    numbers = len(results[0]["bbox"]) if results else 4
    boxes = torch.tensor([result["bbox"] for result in results]).reshape(-1, numbers)
    if numbers == 5:
        return RotatedBoxes(boxes)
    return Boxes(BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS))


def rows_of(
    kind: str,
    results: Iterable[dict],
    classes: Sequence[str],
    categories: Sequence[int],
    threshold: float,
) -> list[tuple]:
    """Lines of the table for one image: its boxes of at least `threshold`, its classes, or its best class."""
    label_of = {number: label for label, number in enumerate(categories)}
    rows: list[tuple] = []
    for result in results:
        if kind in ("boxes", "oriented"):
            name = class_name(label_of.get(result["category_id"], result["category_id"]), classes)
            if result["score"] >= threshold:
                box = (f"{value:.2f}" for value in result["bbox"])
                rows.append((name, f"{result['score']:.4f}", *box))
        elif kind == "labels":
            total = sum(count for _, count in result["pixels"])
            rows += [
                (class_name(label, classes), count, f"{count / total:.4f}")
                for label, count in result["pixels"]
            ]
        else:
            best = int(np.argmax(result["scores"]))
            rows.append((class_name(best, classes), f"{result['scores'][best]:.4f}"))
    return rows
