"""SegFormer on EVA-02-L with IV-tuning, FMB segmentation, 15 classes, 512 px.

On the release's 1,220 and 280 pairs; papers that leave out the background have fmb_seg_foreground_* with 14
classes. We know no figure of this method. The recipe is that of MSRS.
"""

from ..common.models.segformer_eva02 import WEIGHTS, model
from ..common.recipes.msrs_segmentation import data, dataloader, lr_multiplier, optimizer, train

dataloader.train.dataset.names = "fmb_seg_train"
dataloader.test.dataset.names = "fmb_seg_test"
# 0.5 to 2 times the images' short side.
dataloader.train.mapper.augmentations[0].short_edge_length = (300, 1200)
model.sem_seg_head.num_classes = 15

train.init_checkpoint = WEIGHTS
