"""SegFormer's decoder on Swin-L: the four stages, 768 channels."""

from detectron2.config import LazyCall as L

from ivtuning.heads.segmentation.segformer import SegFormer

from .segmentor import channels, features, model

model.sem_seg_head.decoder = L(SegFormer)(
    in_features=features, in_channels=channels, num_classes="${..num_classes}"
)
