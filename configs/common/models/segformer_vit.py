"""SegFormer's decoder on ViT-L: four out_indices of one size, 768 channels."""

from detectron2.config import LazyCall as L

from ivtuning.heads.segmentation.segformer import SegFormer

from .segmentor_vit import features, model

model.sem_seg_head.decoder = L(SegFormer)(
    in_features=features, in_channels=[1024] * len(features), num_classes="${..num_classes}"
)
