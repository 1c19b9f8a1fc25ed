"""Maps a dataset dict to model inputs: a pair of images in one geometric frame, with its labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, RotatedBoxes

from ...errors import UserError
from ...oriented.boxes import canonical, corners, from_corners
from ..images import check_ir_range, read_pair
from ..labels import IGNORE, UNUSED, read_labels
from ..modalities import MODALITIES, PIXEL_KEYS, absent_modality, check_modality

Photometric = Callable[[np.ndarray], np.ndarray]
_PHOTOMETRIC_TRANSFORMS = (T.BlendTransform, T.ColorTransform)


class _Labeled(T.AugInput):
    """An augmentation's input, in which labels that a transform makes up become 255.

    Padding and the corners of a rotated image are such labels. Transforms themselves may write 0 there, which
    is a class, and detectron2's releases differ in it.
    """

    def transform(self, tfm: T.Transform) -> None:
        mark = None if self.sem_seg is None else np.full_like(self.sem_seg, UNUSED)
        super().transform(tfm)
        if mark is not None:
            self.sem_seg = np.where(tfm.apply_segmentation(mark) == UNUSED, self.sem_seg, np.uint8(IGNORE))


class PairedDatasetMapper:
    """Reads a pair, transforms both images and the labels alike, then changes the pixels of each image.

    An image may be absent: the dict has no `ir_file_name`, its `missing` is "visible" or "infrared", or an
    option of the mapper drops it. The sample then lacks the image, and `model.fill_missing` decides what the
    model does. A named file that does not exist is still an error.

    All random numbers come from numpy's, torch's and Python's global generators: equal states give equal
    samples.
    """

    def __init__(
        self,
        is_train: bool,
        augmentations: Sequence[T.Augmentation | T.Transform] = (),
        photometric: Sequence[Photometric] = (),
        photometric_ir: Sequence[Photometric] = (),
        use_instance_mask: bool = False,
        ir_range: Sequence[float] | None = None,
        drop: str | None = None,
        modality_dropout: float = 0.0,
        gray_visible: bool = False,
        oriented: bool = False,
    ):
        """
        Args:
            is_train: return the annotations as `instances` and the label map as `sem_seg`.
            augmentations: geometric ones; drawn once, on the visible image, and applied to everything else.
            photometric: callables (H,W,3) uint8 -> the same, for the visible image after the geometry.
            photometric_ir: likewise for the infrared image, drawn independently.
            use_instance_mask: needs a segmentation (polygons or RLE) in every annotation; adds `gt_masks`
                (BitMasks) and, after a crop, takes the boxes from the masks.
            ir_range: raw counts (lo, hi) of 16-bit infrared, or values in the unit of a floating-point one,
                see :func:`..images.read_pair`.
            drop: "visible" or "infrared": the image that every sample goes without.
            modality_dropout: probability, 0..1, that a complete training pair loses one of its images, either
                with equal chance. All its objects stay.
            gray_visible: accept visible images of one channel.
            oriented: return oriented boxes, for detectors of such; others become ones of angle 0.

        Raises:
            UserError: `ir_range` is not two increasing numbers, `drop` no modality, `modality_dropout` no
                probability or not for training, or `use_instance_mask` with `oriented`.
        """
        check_modality(drop, "drop")
        if not 0 <= modality_dropout <= 1:
            raise UserError(f"modality_dropout={modality_dropout}: give a probability in 0..1")
        if modality_dropout and not is_train:
            raise UserError("modality_dropout is for training: evaluate with drop=visible or drop=infrared")
        if oriented and use_instance_mask:
            raise UserError("use_instance_mask and oriented exclude each other: oriented boxes have no masks")
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.photometric = list(photometric)
        self.photometric_ir = list(photometric_ir)
        self.use_instance_mask = use_instance_mask
        self.ir_range = check_ir_range(ir_range)
        self.drop = drop
        self.modality_dropout = modality_dropout
        self.gray_visible = gray_visible
        self.oriented = oriented

    def __call__(self, dataset_dict: dict) -> dict:
        """
        Args:
            dataset_dict: one registered pair, or one of images in memory, see :func:`..images.read_pair`; it
                is not modified.

        Returns:
            dict: the same keys without `annotations` and images in memory, and `image`, `image_ir` (3,H,W)
            uint8, or one of them if the other is absent. In training also `instances`, if the dict has
            `annotations`, with `gt_boxes` (XYXY pixels of the augmented image, or `RotatedBoxes`),
            `gt_classes` and perhaps `gt_masks` (N,H,W); and `sem_seg` (H,W) int64, see
            :func:`..labels.read_labels`, if it has a `sem_seg_file_name`. `height` and `width`
            stay those of the file.

        Raises:
            BadPair: see :func:`..images.read_pair` and :func:`..labels.read_labels`.
            UserError: a photometric transform among the geometric ones or the reverse, or one that blends
                labels; oriented boxes without the option `oriented`; an unknown label; a missing
                segmentation; `drop` leaves nothing of the pair.
        """
        dataset_dict = dict(dataset_dict)
        absent = self._absent(dataset_dict)
        visible, infrared = read_pair(dataset_dict, self.ir_range, absent, self.gray_visible)
        for key in PIXEL_KEYS:
            dataset_dict.pop(key, None)
        aug_input = _Labeled(infrared if visible is None else visible)
        dataset_dict.setdefault("height", aug_input.image.shape[0])
        dataset_dict.setdefault("width", aug_input.image.shape[1])
        if self.is_train and "sem_seg_file_name" in dataset_dict:
            aug_input.sem_seg = read_labels(dataset_dict)

        transforms = self.augmentations(aug_input)
        _check_geometric(transforms, labeled=aug_input.sem_seg is not None)
        if visible is not None:
            dataset_dict["image"] = _finish(aug_input.image, self.photometric)
        if infrared is not None:
            image = aug_input.image if visible is None else transforms.apply_image(infrared)
            dataset_dict["image_ir"] = _finish(image, self.photometric_ir)

        annotations = dataset_dict.pop("annotations", None)
        if self.is_train and annotations is not None:
            dataset_dict["instances"] = self._instances(
                annotations, transforms, aug_input.image.shape[:2], dataset_dict
            )
        if aug_input.sem_seg is not None:
            dataset_dict["sem_seg"] = torch.from_numpy(aug_input.sem_seg.astype(np.int64))
        return dataset_dict

    def _absent(self, dataset_dict: dict) -> str | None:
        """The modality that the sample goes without, or None."""
        lacking = absent_modality(dataset_dict)
        if lacking and self.drop not in (None, lacking):
            name = dataset_dict["file_name"]
            raise UserError(f"{name} has no {lacking} image: drop={self.drop} would leave nothing of it")
        absent = self.drop or lacking
        # Nothing is drawn without dropout, so that the option leaves a seed's other random numbers alone.
        if absent is None and self.modality_dropout and np.random.uniform() < self.modality_dropout:
            absent = MODALITIES[np.random.randint(2)]
        return absent

    def _instances(self, annotations, transforms, shape, dataset_dict):
        annotations = [a for a in annotations if not a.get("iscrowd", 0)]
        instances = Instances(shape)
        if self.oriented:
            boxes, inside = oriented_boxes(annotations, transforms, shape)
            annotations = [a for a, kept in zip(annotations, inside, strict=True) if kept]
            instances.gt_boxes = RotatedBoxes(boxes[inside])
        elif any(a["bbox_mode"] == BoxMode.XYWHA_ABS for a in annotations):
            raise UserError(
                f"{dataset_dict['file_name']} has oriented boxes: train a detector of such, as "
                "configs/DroneVehicle does, with dataloader.train.mapper.oriented=True"
            )
        else:
            instances.gt_boxes = Boxes(_boxes(annotations, transforms, shape))
        instances.gt_classes = torch.tensor([int(a["category_id"]) for a in annotations], dtype=torch.int64)
        if self.use_instance_mask:
            masks = np.zeros((len(annotations), *shape), bool)
            for mask, annotation in zip(masks, annotations, strict=True):
                before = mask_util.decode(_to_rle(annotation, dataset_dict))
                # Padding may have written another value: newer FixedSizeCrop writes 255 by default.
                mask[:] = transforms.apply_segmentation(before) == 1
            instances.gt_masks = BitMasks(torch.from_numpy(masks))
            if any(isinstance(t, T.CropTransform) for t in transforms.transforms):
                instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        return detection_utils.filter_empty_instances(instances)


def oriented_boxes(
    annotations: list[dict], transforms: T.TransformList, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Transformed boxes (N, 5) with their longer edges as widths, and whether their centers are in the image.

    Flips, crops, rotations and even resizes move boxes exactly; see :func:`...oriented.boxes.from_corners`.
    """
    boxes = np.zeros((len(annotations), 5))
    for mode in {a["bbox_mode"] for a in annotations}:
        rows = [i for i, a in enumerate(annotations) if a["bbox_mode"] == mode]
        given = torch.tensor([annotations[i]["bbox"] for i in rows], dtype=torch.float64)
        if mode != BoxMode.XYWHA_ABS:
            given = BoxMode.convert(given, mode, BoxMode.XYWH_ABS)
            given = BoxMode.convert(given, BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS)
        boxes[rows] = given
    points = corners(torch.from_numpy(boxes)).numpy().reshape(-1, 2)
    points = transforms.apply_coords(points) if len(points) else points
    boxes = canonical(from_corners(torch.from_numpy(points.reshape(-1, 4, 2)))).numpy()
    inside = ((boxes[:, :2] >= 0) & (boxes[:, :2] < shape[::-1])).all(1)
    return boxes, inside


def _boxes(annotations: list[dict], transforms: T.TransformList, shape: tuple[int, int]) -> np.ndarray:
    """(N,4) XYXY pixels, clipped to the image; much faster than detectron2's function for single boxes."""
    boxes = np.zeros((len(annotations), 4))
    if not annotations:
        return boxes
    for mode in {a["bbox_mode"] for a in annotations}:
        rows = [i for i, a in enumerate(annotations) if a["bbox_mode"] == mode]
        given = torch.tensor([annotations[i]["bbox"] for i in rows], dtype=torch.float32)
        boxes[rows] = BoxMode.convert(given, mode, BoxMode.XYXY_ABS)
    height, width = shape
    return np.minimum(transforms.apply_box(boxes).clip(min=0), (width, height, width, height))


def _to_rle(annotation: dict, dataset_dict: dict) -> dict:
    """The segmentation as one compressed RLE. Masks are transformed exactly; polygons would need shapely."""
    segmentation = annotation.get("segmentation")
    if not segmentation:
        raise UserError(
            f"an annotation of {dataset_dict['file_name']} has no segmentation: set use_instance_mask=False"
        )
    size = dataset_dict["height"], dataset_dict["width"]
    if isinstance(segmentation, list):
        return mask_util.merge(mask_util.frPyObjects(segmentation, *size))
    if isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, *size)
    return segmentation


def _check_geometric(transforms: T.TransformList, labeled: bool) -> None:
    for transform in transforms.transforms:
        if labeled and isinstance(transform, T.ExtentTransform):
            # It tests `if interp`, and Pillow's NEAREST is 0, so it blends: between classes 0 and 2 is a 1.
            raise UserError("RandomExtent blends neighboring labels: use ResizeScale and RandomCrop instead")
        if isinstance(transform, _PHOTOMETRIC_TRANSFORMS):
            # It was drawn with the visible image's statistics and would silently be wrong for infrared.
            raise UserError(
                f"augmentations yield {type(transform).__name__}, which changes pixel values: "
                "move it to photometric or photometric_ir, augmentations are for geometry"
            )


def _finish(image: np.ndarray, photometric: list[Photometric]) -> torch.Tensor:
    """Apply the photometric changes to (H,W,3) uint8 and return a (3,H,W) uint8 tensor."""
    shape = image.shape
    _check_pixels(image, shape, "augmentations")
    if photometric and not image.strides[2]:
        image = image.copy()  # gray is a view of one channel: changes need three
    for change in photometric:
        image = change(image)
        _check_pixels(image, shape, getattr(change, "__name__", type(change).__name__))
    return _planes(image)


def _planes(image: np.ndarray) -> torch.Tensor:
    """(H,W,C) array or view as a contiguous (C,H,W) tensor; far faster than numpy's transpose."""
    planes = np.empty((image.shape[2], *image.shape[:2]), image.dtype)
    flipped = image.strides[1] < 0
    if flipped:
        image = image[:, ::-1]
    if image.strides[2]:
        cv2.split(image, list(planes))
    else:  # a view of one channel
        planes[:] = image[..., 0]
    if flipped:
        for plane in planes:
            cv2.flip(plane, 1, plane)
    return torch.from_numpy(planes)


def _check_pixels(image: np.ndarray, shape: tuple, source: str) -> None:
    if image.dtype != np.uint8 or image.shape != shape:
        raise UserError(f"{source} gave an image {image.dtype} {image.shape}: it must be uint8 {shape}")
