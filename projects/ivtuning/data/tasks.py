"""The task of a registered set, which its metadata's `evaluator_type` tells."""

from __future__ import annotations

from dataclasses import dataclass

from detectron2.data import Metadata


@dataclass(frozen=True)
class Task:
    """What sets of one task hold.

    Attributes:
        name: "detection", "segmentation" or "classification".
        labels: what belongs to each of their images, in words.
        classes: where their metadata lists the names of the classes.
    """

    name: str
    labels: str
    classes: str


_DETECTION = Task("detection", "boxes", "thing_classes")
_OTHERS = {
    "sem_seg": Task("segmentation", "label maps", "stuff_classes"),
    "classification": Task("classification", "labels of whole images", "classes"),
}
LABELS = {task.name: task.labels for task in (_DETECTION, *_OTHERS.values())}


def task_of(facts: Metadata) -> Task:
    """The task of the set with the metadata `facts`: detection, unless its `evaluator_type` names another."""
    return _OTHERS.get(facts.get("evaluator_type"), _DETECTION)
