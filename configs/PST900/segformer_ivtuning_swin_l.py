"""SegFormer on Swin-L with IV-tuning, PST900 segmentation, five classes, 512 px.

On the release's 597 and 297 pairs. We know no figure of this method. The recipe is that of MSRS.
"""

from ..common.models.segformer_swin import model
from ..common.recipes.msrs_segmentation import data, dataloader, lr_multiplier, optimizer, train

dataloader.train.dataset.names = "pst900_seg_train"
dataloader.test.dataset.names = "pst900_seg_test"
# 0.5 to 2 times the images' short side.
dataloader.train.mapper.augmentations[0].short_edge_length = (360, 1440)
model.sem_seg_head.num_classes = 5

train.init_checkpoint = "timm://swin_large_patch4_window12_384.ms_in22k"
