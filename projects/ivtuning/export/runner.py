"""Runs an exported ONNX file. Needs numpy and onnxruntime alone."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from ..errors import UserError

# (B, 3, H, W) uint8, or the images one by one, None where one is missing.
Images: TypeAlias = np.ndarray | Sequence[np.ndarray | None]


class OnnxModel:
    """An exported file as a function from arrays of images to named arrays.

    Args:
        path: the ONNX file; a second file with its weights, where there is one, lies beside it.
        device: "cpu", "cuda" or "cuda:N"; "auto" is CUDA where this onnxruntime has it, else the CPU.
        threads: number of threads on a CPU; None: as many as there are cores.

    Attributes:
        metadata: what the file says about itself, see docs/deploy.md.
        inputs, outputs: names of the graph's inputs and outputs.
        size: height and width of the images; None for each that is dynamic.
        batch: pairs in a batch; None if it is dynamic.

    Raises:
        UserError: no such file, one that is damaged or was not exported by ivtuning, a device that this
            onnxruntime lacks, or no onnxruntime.
    """

    def __init__(self, path: str | os.PathLike, device: str = "cpu", threads: int | None = None):
        self._session = _open(path, device, threads)
        self.metadata = _metadata(self._session, path)
        shapes = {
            x.name: [n if isinstance(n, int) else None for n in x.shape] for x in self._session.get_inputs()
        }
        self.inputs, self.outputs = list(shapes), [x.name for x in self._session.get_outputs()]
        self.batch, _, *size = next(iter(shapes.values()))
        self.size: tuple[int | None, int | None] = (size[0], size[1])

    @property
    def classes(self) -> list[str]:
        """Names by class id, where the file has them."""
        return list(self.metadata.get("classes", ()))

    def __call__(self, visible: Images | None, infrared: Images | None = None) -> dict[str, np.ndarray]:
        """The outputs for a batch of pairs, each with the batch as its first axis.

        A file of a fixed batch runs as often as it must; the last run repeats a pair to fill the batch.

        Args:
            visible, infrared: (B, 3, H, W) uint8 RGB, or lists of (3, H, W), None for missing images; None if
                all are missing. What replaces a missing one follows from the model's `fill_missing`.

        Raises:
            UserError: images of another number, type or size than the file takes, or a missing image that the
                model does not fill.
        """
        feeds = self._feeds(visible, infrared)
        count = len(feeds[self.inputs[0]])
        step = self.batch or count
        runs = []
        for start in range(0, count, step):
            part = {name: _filled(array[start : start + step], step) for name, array in feeds.items()}
            runs.append(self._session.run(None, part))
        arrays = (np.concatenate(parts)[:count] for parts in zip(*runs, strict=True))
        return dict(zip(self.outputs, arrays, strict=True))

    def _feeds(self, visible: Images | None, infrared: Images | None) -> dict[str, np.ndarray]:
        names = [name for name in self.inputs if name != "missing"]
        given = dict(zip(("visible", "infrared"), (visible, infrared), strict=True))
        known = [images for images in given.values() if images is not None]
        if not known or not len(known[0]):
            raise UserError("there are no images: give at least one")
        count = len(known[0])
        if any(len(images) != count for images in known):
            raise UserError("visible and infrared have different numbers of images: give pairs")
        columns = [list(given[name]) if given[name] is not None else [None] * count for name in names]
        lacking = np.array([[image is None for image in column] for column in columns]).T
        fill = self.metadata.get("fill_missing", "error")
        if lacking.all(1).any():
            raise UserError("a pair has neither a visible nor an infrared image: give one of them")
        if lacking.any() and fill == "error":
            name = names[int(lacking.any(0).argmax())]
            raise UserError(
                f"the {name} image is missing, and the model was exported with fill_missing=error"
            )
        shape = next(np.shape(image) for column in columns for image in column if image is not None)
        feeds = {
            name: np.stack([_image(image, shape, name) for image in column])
            for name, column in zip(names, columns, strict=True)
        }
        self._check_size(shape)
        if "missing" in self.inputs:
            feeds["missing"] = lacking
        return feeds

    def _check_size(self, shape: tuple[int, ...]) -> None:
        size = shape[1:]
        largest = self.metadata.get("largest_side")
        if any(want not in (None, have) for want, have in zip(self.size, size, strict=True)):
            wanted = "x".join(str(n) for n in reversed(self.size))
            raise UserError(f"the images are {size[1]}x{size[0]}, the file takes {wanted}: resize them")
        if largest and max(size) > largest:
            raise UserError(
                f"the images are {size[1]}x{size[0]}, the file takes sides up to {largest}: resize them"
            )


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """What an exported file says about itself, see docs/deploy.md. It is read faster than to be run.

    Raises:
        UserError: see :class:`OnnxModel`.
    """
    facts = os.stat(path) if os.path.isfile(path) else None
    return dict(_read(os.fspath(path), facts and (facts.st_mtime_ns, facts.st_size)))


@functools.lru_cache(maxsize=4)
def _read(path: str, stamp: tuple[int, int] | None) -> dict[str, Any]:
    """The metadata of a file of this time and size. Several steps of a command ask for them."""
    return _metadata(_open(path, "cpu", 1, optimize=False), path)


def _open(path: str | os.PathLike, device: str, threads: int | None, optimize: bool = True) -> Any:
    """An onnxruntime.InferenceSession."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            "running an ONNX file needs onnxruntime: pip install onnxruntime, or onnxruntime-gpu"
        ) from error
    if not os.path.isfile(path):
        raise UserError(f"no file {os.fspath(path)}: export one with tools/export_model.py")
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    if threads is not None:
        settings.intra_op_num_threads = threads
    if not optimize:
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    providers = _providers(device, onnxruntime.get_available_providers())
    try:
        return onnxruntime.InferenceSession(os.fspath(path), settings, providers=providers)
    except Exception as error:  # onnxruntime's own errors have no common base but this
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{os.fspath(path)}: onnxruntime cannot load it: {reason:.200}") from error


def _metadata(session: Any, path: str | os.PathLike) -> dict[str, Any]:
    texts = session.get_modelmeta().custom_metadata_map
    if "task" not in texts:
        raise UserError(f"{os.fspath(path)}: was not exported by tools/export_model.py")
    return {key: _parsed(text) for key, text in texts.items()}


def _image(image: np.ndarray | None, shape: tuple[int, ...], name: str) -> np.ndarray:
    """One image of the batch; black where it is missing."""
    if image is None:
        return np.zeros(shape, np.uint8)
    if getattr(image, "dtype", None) != np.uint8 or len(shape) != 3 or shape[0] != 3 or image.shape != shape:
        got = f"{getattr(image, 'dtype', type(image).__name__)} {np.shape(image)}"
        raise UserError(f"{name} image: {got}: give uint8 arrays (3, H, W), all of one size")
    return image


def _filled(array: np.ndarray, count: int) -> np.ndarray:
    """The array with its last entry repeated to make `count`."""
    return np.concatenate([array, np.repeat(array[-1:], count - len(array), 0)])


def _providers(device: str, available: Sequence[str]) -> list:
    """What onnxruntime calls the device."""
    kind, _, index = device.partition(":")
    if device == "auto":
        kind = "cuda" if "CUDAExecutionProvider" in available else "cpu"
    if kind == "cpu":
        return ["CPUExecutionProvider"]
    if kind != "cuda" or not (index or "0").isdecimal():
        raise UserError(f"device={device!r}: give cpu, cuda, cuda:<number> or auto")
    if "CUDAExecutionProvider" not in available:
        raise UserError(f"device={device}: this onnxruntime has no CUDA: pip install onnxruntime-gpu")
    return [("CUDAExecutionProvider", {"device_id": int(index or 0)}), "CPUExecutionProvider"]


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
