"""DINO (arXiv 2203.03605) as a detectron2 meta-architecture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.modeling import Backbone, detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from ...errors import UserError
from ...meta_arch import PairedInput
from ...necks.channel_mapper import ChannelMapper
from ...utils.precision import at_least_float32
from .boxes import to_corners
from .criterion import Criterion
from .decoder import Predictions
from .denoising import ContrastiveDenoising, Denoising
from .targets import Targets, collect_targets
from .transformer import DenoisingQueries, Transformer


class DINO(nn.Module):
    """A detector whose queries predict objects directly, without non-maximum suppression.

    Args:
        backbone: all its outputs are used, finest first.
        transformer: its `num_levels` and `embed_dim` are the neck's too.
        num_classes: K, the same as the transformer's.
        max_detections_per_image: at test time.
        denoising, criterion: None: with the published settings.
        neck_bias: whether the neck's convolutions have biases; models of mmdetection have none.
        pixel_mean, pixel_std: of every channel, on 0..255.

    Raises:
        UserError: `pixel_mean` and `pixel_std` differ in length, or a part refuses its size.
    """

    def __init__(
        self,
        backbone: Backbone,
        transformer: Transformer,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        max_detections_per_image: int = 300,
        denoising: ContrastiveDenoising | None = None,
        criterion: Criterion | None = None,
        neck_bias: bool = True,
    ):
        super().__init__()
        if len(pixel_mean) != len(pixel_std):
            raise UserError(
                f"model.pixel_mean has {len(pixel_mean)} values, pixel_std {len(pixel_std)}: "
                "give as many of each"
            )
        self.backbone, self.transformer = backbone, transformer
        outputs = backbone.output_shape()
        self.in_features = list(outputs)
        channels = [shape.channels for shape in outputs.values()]
        self.neck = ChannelMapper(channels, transformer.embed_dim, transformer.num_levels, neck_bias)
        # One more row than there are classes, unused, as in the released models.
        self.label_enc = nn.Embedding(num_classes + 1, transformer.embed_dim)
        self.num_classes, self.max_detections_per_image = num_classes, max_detections_per_image
        self.denoising = denoising or ContrastiveDenoising()
        self.criterion = criterion or Criterion()
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """Normalize the images and pad them with 0 at the right and the bottom to one size."""
        images = [
            (x["image"].to(self.device, non_blocking=True) - self.pixel_mean) / self.pixel_std
            for x in batched_inputs
        ]
        return ImageList.from_tensors(images, self.backbone.size_divisibility)

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """
        Args:
            batched_inputs: dicts with "image" (C, H, W) uint8 RGB and, in training, "instances" with
                gt_boxes (pixels of the image) and gt_classes.

        Returns:
            In training the weighted losses, see :class:`.criterion.Criterion`; else see :meth:`inference`.

        Raises:
            UserError: see :func:`.targets.collect_targets`.
        """
        if not self.training:
            return self.inference(batched_inputs)
        targets = collect_targets(batched_inputs, self.num_classes, self.device)
        denoising = self.denoising(targets, self.num_classes)
        images = self.preprocess_image(batched_inputs)
        decoder, encoder = self.predict(images, self.denoising_queries(denoising))
        return self.losses(decoder, encoder, targets, denoising)

    def denoising_queries(self, denoising: Denoising | None) -> DenoisingQueries | None:
        """The denoising queries with their labels embedded; 0 for unused ones."""
        if denoising is None:
            return None
        content = self.label_enc(denoising.labels) * denoising.valid[..., None]
        return DenoisingQueries(content, denoising.boxes, denoising.attn_mask)

    def losses(
        self, decoder: Predictions, encoder: Predictions, targets: Targets, denoising: Denoising | None
    ) -> dict[str, Tensor]:
        """The criterion's losses, which reach every trained parameter."""
        losses = self.criterion(decoder, encoder, targets, denoising)
        if denoising is None:
            # Every process must have every gradient, even for a batch without objects.
            losses["loss_class_dn"] = losses["loss_class_dn"] + 0.0 * self.label_enc.weight.sum()
        return losses

    def predict(
        self, images: ImageList, denoising: DenoisingQueries | None = None
    ) -> tuple[Predictions, Predictions]:
        """Predictions of decoder and encoder, see :meth:`.transformer.Transformer.forward`."""
        return self.transformer(*self.features(images), denoising)

    def features(self, images: ImageList) -> tuple[list[Tensor], list[tuple[int, int]], tuple[int, int]]:
        """The neck's maps, the sizes of the images and the size of the batch, in pixels."""
        features = self.backbone(images.tensor)
        maps = self.neck([features[name] for name in self.in_features])
        return maps, images.image_sizes, tuple(images.tensor.shape[-2:])

    def inference(self, batched_inputs: list[dict], do_postprocess: bool = True) -> list:
        """The highest-scoring pairs of a query and a class in every image.

        Returns:
            For every image {"instances": Instances} with `pred_boxes` (x1, y1, x2, y2, in pixels of the
            image's "height" and "width"), `scores` in 0..1, descending, and `pred_classes`. Without
            `do_postprocess` the Instances alone, in pixels of the input image.
        """
        images = self.preprocess_image(batched_inputs)
        decoder, _ = self.predict(images)
        detections = self.detect(decoder.logits[-1], decoder.boxes[-1], images.image_sizes)
        if not do_postprocess:
            return detections
        return [
            {"instances": detector_postprocess(r, x.get("height", size[0]), x.get("width", size[1]))}
            for r, x, size in zip(detections, batched_inputs, images.image_sizes, strict=True)
        ]

    def detect(
        self, logits: Tensor, boxes: Tensor, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Instances]:
        """One layer's logits (B, Q, K) and boxes (B, Q, 4) as Instances, in pixels of the input images."""
        corners, scores, classes = self.top_pairs(logits, boxes, self.max_detections_per_image)
        detections = []
        for i, (height, width) in enumerate(image_sizes):
            instances = Instances((height, width))
            instances.pred_boxes = Boxes(corners[i] * corners.new_tensor([width, height, width, height]))
            instances.scores = scores[i]
            instances.pred_classes = classes[i]
            detections.append(instances)
        return detections

    @staticmethod
    def top_pairs(logits: Tensor, boxes: Tensor, limit: int) -> tuple[Tensor, Tensor, Tensor]:
        """The N = `limit` highest-scoring pairs of a query and a class, or all if there are fewer.

        Args:
            logits: (B, Q, K).
            boxes: (B, Q, 4) cx, cy, w, h.

        Returns:
            Boxes (B, N, 4) x1, y1, x2, y2, scores (B, N) in 0..1, descending, and classes (B, N).
        """
        num_classes = logits.shape[-1]
        scores = at_least_float32(logits).sigmoid().flatten(1)
        scores, index = scores.topk(min(limit, scores.shape[1]), 1)
        query = index.div(num_classes, rounding_mode="floor")[..., None].expand(-1, -1, 4)
        return to_corners(boxes.gather(1, query)), scores, index % num_classes


class PairedDINO(PairedInput, DINO):
    """DINO on pairs."""
