"""SegFormer's decoder on ViT-L: the maps of four blocks, all of one size, 768 channels."""

from detectron2.config import LazyCall as L

from ivtuning.heads.segmentation.segformer import SegFormer

from .segmentor_vit import channels, features, model

model.sem_seg_head.decoder = L(SegFormer)(
    in_features=features, in_channels=channels, num_classes="${..num_classes}"
)
