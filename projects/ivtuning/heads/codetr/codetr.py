"""Co-DETR (arXiv 2211.12860) as a detectron2 meta-architecture, in its form Co-DINO."""

from __future__ import annotations

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
from ..dino.encoder import Places
from ..dino.targets import collect_targets
from .atss import ATSSHead
from .criterion import QualityCriterion
from .positives import customise
from .regions import Regions
from .soft_nms import SoftNMS
from .transformer import CoTransformer


class CoDINO(DINO):
    """DINO whose encoder also learns from two heads of many positives, and its decoder from what they found.

    The heads see the encoder's output as maps, and one coarser map, and take no part in inference.

    Args:
        transformer: a :class:`.transformer.CoTransformer` of two groups.
        proposal_generator: region proposals on all maps, one more than the transformer's levels.
        roi_heads: the head of the proposals; its first maps are those of the proposals too.
        atss: the head of the anchors, on all maps.
        soft_nms: applied to the best pairs of a query and a class, as many as there are queries, before the
            best `detections` are kept; None leaves it out.
        padding: gray value, 0..255, of padding that counts as part of the image, as for models that were
            trained on jittered squares; None masks the padding, as DINO does.
        criterion: with its published weights where None.
        **dino: see :class:`..dino.DINO`.

    Raises:
        UserError: the heads' maps are not one more than the transformer's levels.
    """

    def __init__(
        self,
        *,
        transformer: CoTransformer,
        proposal_generator: RPN,
        roi_heads: StandardROIHeads,
        atss: ATSSHead,
        soft_nms: SoftNMS | None = None,
        padding: float | None = None,
        criterion: QualityCriterion | None = None,
        **dino,
    ):
        # mmdetection's neck: no biases before a norm.
        super().__init__(
            transformer=transformer, criterion=criterion or QualityCriterion(), neck_bias=False, **dino
        )
        levels = transformer.levels + 1
        for name, maps in (
            ("proposal_generator.in_features", proposal_generator.in_features),
            ("atss.anchor_generator.strides", atss.anchor_generator.strides),
        ):
            if len(maps) != levels:
                raise UserError(
                    f"model.{name} has {len(maps)} entries: give {levels}, transformer.levels + 1"
                )
        self.label_enc = nn.Embedding(self.num_classes, transformer.dim)
        dim = transformer.dim
        self.downsample = nn.Sequential(nn.Conv2d(dim, dim, 3, stride=2, padding=1), nn.GroupNorm(32, dim))
        self.proposal_generator, self.roi_heads, self.atss = proposal_generator, roi_heads, atss
        self.soft_nms, self.padding = soft_nms, padding

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """See :meth:`..dino.DINO.forward`. Training takes place in a detectron2 EventStorage.

        Returns:
            In training, besides DINO's losses, "loss_class", "loss_bbox" and "loss_giou" with "_rcnn" and
            "_atss", of the customised positive queries of either head, summed over the layers, and the heads'
            own losses, "loss_rpn_*", "loss_cls", "loss_box_reg" and "loss_atss_*".
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = self.framed(self.preprocess_image(batched_inputs))
        sizes = images.image_sizes
        targets = collect_targets(batched_inputs, self.num_classes, self.device, sizes)
        noised = self.denoising(targets, self.num_classes)
        memory, places = self.transformer.encode(*self.features(images))
        queries, selected = self.transformer.start(memory, places, self.known_queries(noised))

        instances = [x["instances"].to(self.device) for x in batched_inputs]
        losses, *regions = self.auxiliary(images, self.maps(memory, places), instances)
        groups = [customise(r, sizes, self.num_classes) for r in regions]
        found = self.transformer.decoder(*self.transformer.join(queries, [g.boxes for g in groups]))
        parts = [queries.content.shape[1], *(g.boxes.shape[1] for g in groups)]
        own, *others = (Predictions(*part) for part in zip(*(x.split(parts, 2) for x in found), strict=True))
        customised = {
            name: self.criterion.customised(predictions, positives)
            for name, predictions, positives in zip(("_rcnn", "_atss"), others, groups, strict=True)
        }
        return {
            **self.losses(own, selected, targets, noised),
            **self.criterion.weighted(customised),
            **losses,
        }

    def maps(self, memory: Tensor, places: Places) -> list[Tensor]:
        """The encoder's output (B, S, dim) as maps, and a coarser one, finest first."""
        shapes = places.shapes
        parts = at_least_float32(memory).transpose(1, 2).split([h * w for h, w in shapes], 2)
        maps = [part.unflatten(2, shape) for part, shape in zip(parts, shapes, strict=True)]
        return [*maps, at_least_float32(self.downsample(maps[-1]))]

    def auxiliary(
        self, images: ImageList, maps: list[Tensor], instances: list[Instances]
    ) -> tuple[dict[str, Tensor], list[Regions], list[Regions]]:
        """Losses of the R-CNN and the ATSS head, and what either found, image by image."""
        features = dict(zip(self.proposal_generator.in_features, maps, strict=True))
        proposals, losses = self.proposal_generator(images, features, instances)
        proposals, box_losses = self.roi_heads(images, features, proposals, instances)
        atss_losses, anchors = self.atss(maps, instances)
        return {**losses, **box_losses, **atss_losses}, [Regions.of(p) for p in proposals], anchors

    def framed(self, images: ImageList) -> ImageList:
        """The batch as it is where padding is masked; else padded with gray, all images of that size."""
        if self.padding is None:
            return images
        batch = images.tensor.clone()
        gray = (self.padding - self.pixel_mean) / self.pixel_std
        for image, (height, width) in zip(batch, images.image_sizes, strict=True):
            image[:, height:] = gray
            image[:, :, width:] = gray
        return ImageList(batch, [tuple(batch.shape[-2:])] * len(batch))

    def predict(self, images: ImageList, extra: tuple | None = None) -> tuple[Predictions, Predictions]:
        """See :meth:`..dino.DINO.predict`; boxes are fractions of the image alone, and may exceed it."""
        found = super().predict(self.framed(images), extra)
        if self.padding is None:
            return found
        height, width = images.tensor.shape[-2:]
        share = torch.tensor([(width / w, height / h) * 2 for h, w in images.image_sizes], device=self.device)
        return tuple(p._replace(boxes=p.boxes * share[:, None]) for p in found)

    def detect(self, logits: Tensor, boxes: Tensor, image_sizes: list[tuple[int, int]]) -> list[Instances]:
        """See :meth:`..dino.DINO.detect`."""
        if self.soft_nms is None:
            return super().detect(logits, boxes, image_sizes)
        found = []
        for instances in self.best(logits, boxes, image_sizes, self.transformer.num_queries):
            instances.pred_boxes.clip(instances.image_size)
            stays, scores = self.soft_nms(
                instances.pred_boxes.tensor, instances.scores, instances.pred_classes
            )
            instances = instances[stays[: self.detections]]
            instances.scores = scores[: self.detections]
            found.append(instances)
        return found


class PairedCoDINO(PairedInput, CoDINO):
    """Co-DINO on pairs."""
