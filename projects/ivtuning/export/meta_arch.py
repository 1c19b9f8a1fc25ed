"""An exported file in the place of its model: from detectron2's samples to what the model gives."""

# ruff: noqa: E402 (detectron2 is prepared before anything imports it)

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

from .. import compat

compat.prepare()

import numpy as np
import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ..data.modalities import IMAGE_KEYS
from ..errors import UserError
from ..heads.segmentation.blocks import resize
from .runner import OnnxModel

logger = logging.getLogger("ivtuning")
Size = tuple[int, int]


class OnnxMetaArch(nn.Module):
    """A meta-architecture that onnxruntime computes.

    Images smaller than the file's fixed size are padded at the right and the bottom, as the model pads them
    if it is configured with `square_pad`.

    Args:
        path: file of tools/export_model.py.
        device: see :class:`.runner.OnnxModel`. On a CPU it uses as many threads as torch.

    Attributes:
        file: the opened file, with its metadata and classes.

    Raises:
        UserError: the file cannot be loaded, or ends before its predictions.
    """

    def __init__(self, path: str | os.PathLike, device: str = "auto"):
        super().__init__()
        self.path = os.fspath(path)
        self.file = OnnxModel(path, device, torch.get_num_threads())
        facts = self.file.metadata
        check_stage(self.path, facts)
        mean = np.asarray(facts["pixel_mean"]).reshape(-1, 3)
        # What stands for padding in whole numbers, by image.
        self._fill = np.broadcast_to(facts.get("pad_value", mean), mean.shape).round().astype(np.uint8)
        self._warned = False

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """
        Args:
            batched_inputs: the mapper's dicts, of any sizes that the file takes. "height" and "width" give
                the size of the output, by default the image's.

        Returns:
            For each image {"instances": detectron2's Instances}, {"sem_seg": (K, height, width) float32 log
            probabilities} or {"scores": (K,) float32 probabilities}, on the CPU.

        Raises:
            UserError: an image that the file does not take, or a missing one that the model does not fill.
        """
        sizes = [_size(x) for x in batched_inputs]
        wanted = [self._size(x, size) for x, size in zip(batched_inputs, sizes, strict=True)]
        results: list[dict] = [{} for _ in sizes]
        # One run for all images of a size.
        for size in dict.fromkeys(wanted):
            group = [i for i, other in enumerate(wanted) if other == size]
            outputs = self._run([batched_inputs[i] for i in group], size)
            for row, i in enumerate(group):
                arrays = {name: torch.as_tensor(array[row]) for name, array in outputs.items()}
                results[i] = _result(arrays, sizes[i], batched_inputs[i])
        return results

    def _size(self, x: Mapping, size: Size) -> Size:
        """The size that an image is padded to."""
        file = self.file.size
        if None in file or size == file:
            return size
        name = f"{x.get('file_name', 'a sample')}: the model's input is {size[1]}x{size[0]}"
        wanted = f"{file[1]}x{file[0]}"
        if self.file.metadata["task"] == "classification":  # padding would become part of the mean
            raise UserError(f"{name}, {self.path} takes {wanted}: end the mapper's augmentations with a crop")
        if size[0] > file[0] or size[1] > file[1]:
            raise UserError(
                f"{name}, {self.path} takes at most {wanted}: export with --size {size[1]}x{size[0]}, or "
                "--dynamic size"
            )
        if not self._warned:
            logger.warning("%s: it is padded to %s, as smaller images are from here on", name, wanted)
            self._warned = True
        return file

    def _run(self, samples: Sequence[dict], size: Size) -> dict[str, np.ndarray]:
        columns = [
            [self._padded(x.get(key), size, fill) for x in samples]
            for key, fill in zip(IMAGE_KEYS, self._fill, strict=False)
        ]
        try:
            return self.file(*columns)
        except UserError as error:
            raise UserError(f"{samples[0].get('file_name', 'a sample')}: {error}") from error

    def _padded(self, image: Tensor | None, size: Size, fill: np.ndarray) -> np.ndarray | None:
        if image is None:
            return None
        array = image.cpu().numpy()
        height, width = array.shape[1:]
        if (height, width) == size:
            return array
        padded = np.empty((3, *size), np.uint8)
        padded[:] = fill[:, None, None]
        padded[:, :height, :width] = array
        return padded


def check_stage(path: str, facts: Mapping) -> None:
    """Raise UserError unless the file with these metadata gives predictions."""
    if facts["stage"] not in ("predictions", "detections"):
        raise UserError(f"{path} was exported with --stage {facts['stage']}: export it without --stage")


def _size(x: Mapping) -> Size:
    """Height and width of a sample's images."""
    image = next((x[key] for key in IMAGE_KEYS if x.get(key) is not None), None)
    if image is None:
        raise UserError(f"{x.get('file_name', 'a sample')}: the sample has neither 'image' nor 'image_ir'")
    return image.shape[1], image.shape[2]


def _result(arrays: Mapping[str, Tensor], size: Size, x: Mapping) -> dict:
    """One image's prediction in the model's form.

    Args:
        arrays: the file's outputs for it.
        size: height and width of the image without padding.
        x: its sample.
    """
    height, width = x.get("height", size[0]), x.get("width", size[1])
    if "scores" in arrays and "boxes" not in arrays:
        return {"scores": arrays["scores"]}
    if "probabilities" in arrays:
        # The logits but for a constant of each pixel: between pixels, they give the classes that logits give.
        scores = arrays["probabilities"].clamp(min=torch.finfo(torch.float32).tiny).log()
        return {"sem_seg": resize(scores[None, :, : size[0], : size[1]], (height, width))[0]}
    count = int(arrays["count"])
    instances = Instances(size)
    instances.pred_boxes = Boxes(arrays["boxes"][:count].clone())
    instances.pred_boxes.clip(size)
    instances.scores = arrays["scores"][:count]
    instances.pred_classes = arrays["labels"][:count]
    if "masks" in arrays:
        instances.pred_masks = arrays["masks"][:count, None]
    instances = instances[instances.pred_boxes.nonempty()]
    return {"instances": detector_postprocess(instances, height, width)}
