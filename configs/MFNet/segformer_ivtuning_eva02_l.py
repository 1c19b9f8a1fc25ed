"""SegFormer on EVA-02-L with IV-tuning, MFNet segmentation, nine classes, 512 px.

An mIoU of 59.56 is published, on the 393 test pairs. The recipe is not: ours is that of MSRS, on the 784
training pairs.
"""

from ..common.models.segformer_eva02 import WEIGHTS, model
from ..common.recipes.msrs_segmentation import data, dataloader, lr_multiplier, optimizer, train

dataloader.train.dataset.names = "mfnet_seg_train"
dataloader.test.dataset.names = "mfnet_seg_test"

train.init_checkpoint = WEIGHTS
