"""SegFormer on EVA-02-L with IV-tuning, PST900 segmentation, five classes, 512 px.

On the release's 597 and 297 pairs. We know no figure of this method. The recipe is that of MSRS.
"""

from ..common.models.segformer_eva02 import WEIGHTS, model
from ..common.recipes.msrs_segmentation import data, dataloader, lr_multiplier, optimizer, train

dataloader.train.dataset.names = "pst900_seg_train"
dataloader.test.dataset.names = "pst900_seg_test"
# 0.5 to 2 times the images' short side.
dataloader.train.mapper.augmentations[0].short_edge_length = (360, 1440)
model.sem_seg_head.num_classes = 5

train.init_checkpoint = WEIGHTS
