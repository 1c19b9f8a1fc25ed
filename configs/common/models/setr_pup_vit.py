"""SETR-PUP on ViT-L (arXiv 2012.15840): the last map upsampled step by step; auxiliary heads on all maps."""

from detectron2.config import LazyCall as L

from ivtuning.heads.segmentation.setr import SETRPUP

from .segmentor_vit import features, model

model.sem_seg_head.decoder = L(SETRPUP)(
    in_feature=features[-1], in_channels=1024, num_classes="${..num_classes}"
)
model.sem_seg_head.auxiliary = [
    L(SETRPUP)(in_feature=name, in_channels=1024, num_classes="${...num_classes}", convs=1, scale=4)
    for name in features
]
