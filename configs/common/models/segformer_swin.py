"""SegFormer's decoder on Swin-L: the four stages, 768 channels."""

from detectron2.config import LazyCall as L

from ivtuning.heads.segmentation.segformer import SegFormer

from .segmentor import model

model.sem_seg_head.decoder = L(SegFormer)(
    in_features=["p0", "p1", "p2", "p3"],
    in_channels=[192, 384, 768, 1536],
    num_classes="${..num_classes}",
)
