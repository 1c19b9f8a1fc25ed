"""The nano trunk with its feature pyramid and SegFormer's decoder: label maps of about 200 px, on a CPU."""

from detectron2.config import LazyCall as L

from ivtuning.heads.segmentation.head import SemSegHead
from ivtuning.heads.segmentation.segformer import SegFormer
from ivtuning.heads.segmentation.segmentor import PairedSemanticSegmentor

from .nano import model as detector

model = L(PairedSemanticSegmentor)(
    backbone=detector.backbone,
    sem_seg_head=L(SemSegHead)(
        decoder=L(SegFormer)(
            in_features=["p2", "p3", "p4"],
            in_channels=["${....backbone.out_channels}"] * 3,
            num_classes="${..num_classes}",
            channels=64,
        ),
        num_classes="???",
    ),
    pixel_mean=detector.pixel_mean,
    pixel_std=detector.pixel_std,
)
# Logits of stride 4: the smallest objects are 12 px long and 5 wide.
model.backbone.scale_factors = (2.0, 1.0, 0.5)
