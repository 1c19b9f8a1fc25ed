"""What the evaluators share: gathering results from all processes, and checks of predictions."""

from __future__ import annotations

from collections.abc import Container
from typing import TypeVar

from detectron2.utils import comm

from ..errors import UserError

T = TypeVar("T")


def gather_on_main(results: T) -> list[T] | None:
    """The `results` of all processes on rank 0, in the order of the ranks; None on the others."""
    comm.synchronize()
    gathered = comm.gather(results, dst=0)
    return gathered if comm.is_main_process() else None


def lower_is_better(metric: str) -> bool:
    """Whether smaller figures are better: miss rates ("bbox/MR-day") and absolute errors ("saliency/MAE")."""
    name = metric.rpartition("/")[2]
    return name == "MAE" or name.partition("-")[0] == "MR"


def check_class(label: int, num_classes: int, dataset_name: str) -> None:
    """Raise UserError where a model predicts a class that the data set lacks."""
    if not 0 <= label < num_classes:
        raise UserError(
            f"the model predicts class {label}, but {dataset_name} has only {num_classes} classes "
            f"(0..{num_classes - 1}): set the model's num_classes"
        )


def check_image(image: object, known: Container, source: object) -> None:
    """Raise UserError where a prediction's image is not `known`; `source` is what should have listed it."""
    if image not in known:
        raise UserError(
            f"image {image} was predicted, but {source} lacks it: evaluate on the data set that the loader "
            "reads"
        )
