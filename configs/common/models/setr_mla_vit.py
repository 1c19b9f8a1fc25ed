"""SETR-MLA on ViT-L (arXiv 2012.15840): multi-level aggregation, an auxiliary head on each of its maps."""

from detectron2.config import LazyCall as L

from ivtuning.heads.segmentation.fcn import FCN
from ivtuning.heads.segmentation.setr import SETRMLA, MLANeck

from .segmentor_vit import channels, features, model

head = model.sem_seg_head
head.neck = L(MLANeck)(in_features=features, in_channels=channels)
head.decoder = L(SETRMLA)(in_features=features, num_classes="${..num_classes}")
head.auxiliary = [
    L(FCN)(in_feature=name, in_channels=256, num_classes="${...num_classes}", convs=0) for name in features
]
