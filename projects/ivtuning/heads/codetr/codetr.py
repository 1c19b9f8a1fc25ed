"""Co-DETR (arXiv 2211.12860) as a detectron2 meta-architecture, in its variant Co-DINO."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from ...errors import UserError
from ...meta_arch import PairedInput
from ...utils.precision import at_least_float32
from ..dino.decoder import Predictions
from ..dino.dino import DINO
from ..dino.encoder import FeatureLayout
from ..dino.targets import collect_targets
from ..dino.transformer import DenoisingQueries
from .atss import ATSSHead
from .criterion import QualityCriterion
from .positives import customized_queries
from .regions import Regions
from .soft_nms import SoftNMS
from .transformer import CoTransformer


class CoDINO(DINO):
    """DINO, trained together with two auxiliary heads that assign many positives to each object.

    The auxiliary heads take the encoder's output as maps, and one coarser map. Their positive regions become
    additional queries of the decoder. The heads are used in training only.

    Args:
        transformer: a :class:`.transformer.CoTransformer` of two groups.
        proposal_generator: region proposals on all maps, one more than the transformer's levels.
        roi_heads: the R-CNN head on these proposals and on the first of these maps.
        atss: the ATSS head, on all maps.
        soft_nms: applied to the best `max_detections_per_image` pairs of a query and a class, as by the
            authors' code; None: no suppression.
        pad_value: gray value, 0..255, of padding that counts as part of the image, for models trained on
            padded squares; None masks the padding, as DINO does.
        criterion: None: with the published weights.
        **dino: see :class:`..dino.DINO`.

    Raises:
        UserError: the auxiliary heads' maps are not one more than the transformer's levels.
    """

    def __init__(
        self,
        *,
        transformer: CoTransformer,
        proposal_generator: RPN,
        roi_heads: StandardROIHeads,
        atss: ATSSHead,
        soft_nms: SoftNMS | None = None,
        pad_value: float | None = None,
        criterion: QualityCriterion | None = None,
        **dino,
    ):
        # mmdetection's neck has no biases before a norm.
        super().__init__(
            transformer=transformer, criterion=criterion or QualityCriterion(), neck_bias=False, **dino
        )
        num_maps = transformer.num_levels + 1
        for name, maps in (
            ("proposal_generator.in_features", proposal_generator.in_features),
            ("atss.anchor_generator.strides", atss.anchor_generator.strides),
        ):
            if len(maps) != num_maps:
                raise UserError(
                    f"model.{name} has {len(maps)} entries: give {num_maps}, transformer.num_levels + 1"
                )
        dim = transformer.embed_dim
        self.label_enc = nn.Embedding(self.num_classes, dim)
        self.downsample = nn.Sequential(nn.Conv2d(dim, dim, 3, stride=2, padding=1), nn.GroupNorm(32, dim))
        self.proposal_generator, self.roi_heads, self.atss = proposal_generator, roi_heads, atss
        self.soft_nms, self.pad_value = soft_nms, pad_value

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """See :meth:`..dino.DINO.forward`. Training needs a detectron2 EventStorage.

        Returns:
            In training, besides DINO's losses: "loss_class", "loss_bbox" and "loss_giou" with "_rcnn" and
            "_atss", of the customized positive queries of either head, summed over the layers, and the heads'
            own losses, "loss_rpn_*", "loss_cls", "loss_box_reg" and "loss_atss_*".
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = self.fill_padding(self.preprocess_image(batched_inputs))
        sizes = images.image_sizes
        targets = collect_targets(batched_inputs, self.num_classes, self.device, sizes)
        denoising = self.denoising(targets, self.num_classes)
        memory, layout = self.transformer.encode(*self.features(images))
        queries, selected = self.transformer.init_queries(memory, layout, self.denoising_queries(denoising))

        instances = [x["instances"].to(self.device) for x in batched_inputs]
        head_losses, *regions = self.auxiliary_heads(images, self.maps(memory, layout), instances)
        groups = [customized_queries(r, sizes, self.num_classes) for r in regions]
        predictions = self.transformer.decoder(
            *self.transformer.add_groups(queries, [group.boxes for group in groups])
        )
        counts = [queries.content.shape[1], *(group.boxes.shape[1] for group in groups)]
        own, *others = (
            Predictions(*part) for part in zip(*(x.split(counts, 2) for x in predictions), strict=True)
        )
        customized_losses = {
            suffix: self.criterion.customized_losses(part, group)
            for suffix, part, group in zip(("_rcnn", "_atss"), others, groups, strict=True)
        }
        return {
            **self.losses(own, selected, targets, denoising),
            **self.criterion.weighted(customized_losses),
            **head_losses,
        }

    def maps(self, memory: Tensor, layout: FeatureLayout) -> list[Tensor]:
        """The encoder's output (B, S, dim) as maps, and a coarser one, finest first."""
        shapes = layout.spatial_shapes
        parts = at_least_float32(memory).transpose(1, 2).split([h * w for h, w in shapes], 2)
        maps = [part.unflatten(2, shape) for part, shape in zip(parts, shapes, strict=True)]
        return [*maps, at_least_float32(self.downsample(maps[-1]))]

    def auxiliary_heads(
        self, images: ImageList, maps: list[Tensor], instances: list[Instances]
    ) -> tuple[dict[str, Tensor], list[Regions], list[Regions]]:
        """Losses of the R-CNN and the ATSS head, and each head's regions, image by image."""
        features = dict(zip(self.proposal_generator.in_features, maps, strict=True))
        proposals, losses = self.proposal_generator(images, features, instances)
        proposals, box_losses = self.roi_heads(images, features, proposals, instances)
        atss_losses, anchors = self.atss(maps, instances)
        regions = [Regions.from_proposals(p) for p in proposals]
        return {**losses, **box_losses, **atss_losses}, regions, anchors

    def fill_padding(self, images: ImageList) -> ImageList:
        """Fill the padding with `pad_value` and count it as image; None leaves the batch as it is."""
        if self.pad_value is None:
            return images
        batch = images.tensor.clone()
        gray = (self.pad_value - self.pixel_mean) / self.pixel_std
        for image, (height, width) in zip(batch, images.image_sizes, strict=True):
            image[:, height:] = gray
            image[:, :, width:] = gray
        return ImageList(batch, [tuple(batch.shape[-2:])] * len(batch))

    def predict(
        self, images: ImageList, denoising: DenoisingQueries | None = None
    ) -> tuple[Predictions, Predictions]:
        """See :meth:`..dino.DINO.predict`; boxes are fractions of the image alone, and may exceed it."""
        predictions = super().predict(self.fill_padding(images), denoising)
        if self.pad_value is None:
            return predictions
        height, width = images.tensor.shape[-2:]
        scale = torch.tensor([(width / w, height / h) * 2 for h, w in images.image_sizes], device=self.device)
        last, encoder = (p._replace(boxes=p.boxes * scale[:, None]) for p in predictions)
        return last, encoder

    def detect(
        self, logits: Tensor, boxes: Tensor, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Instances]:
        """See :meth:`..dino.DINO.detect`."""
        found = super().detect(logits, boxes, image_sizes)
        if self.soft_nms is None:
            return found
        detections = []
        for instances in found:
            instances.pred_boxes.clip(instances.image_size)
            keep, scores = self.soft_nms(
                instances.pred_boxes.tensor, instances.scores, instances.pred_classes
            )
            instances = instances[keep]
            instances.scores = scores
            detections.append(instances)
        return detections


class PairedCoDINO(PairedInput, CoDINO):
    """Co-DINO on pairs."""
