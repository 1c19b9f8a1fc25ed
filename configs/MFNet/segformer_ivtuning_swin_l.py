"""SegFormer on Swin-L with IV-tuning, MFNet segmentation, nine classes, 512 px.

An mIoU of 60.07 is published, on the 393 test pairs. The recipe is not: ours is that of MSRS, on the 784
training pairs.
"""

from ..common.models.segformer_swin import model
from ..common.recipes.msrs_segmentation import data, dataloader, lr_multiplier, optimizer, train

dataloader.train.dataset.names = "mfnet_seg_train"
dataloader.test.dataset.names = "mfnet_seg_test"

train.init_checkpoint = "timm://swin_large_patch4_window12_384.ms_in22k"
