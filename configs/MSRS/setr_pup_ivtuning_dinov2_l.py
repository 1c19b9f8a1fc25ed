"""SETR-PUP on DINOv2-L with registers and IV-tuning, MSRS segmentation, nine classes, 518 px.

No recipe is published. Our choice: common/recipes/msrs_segmentation.py, with crops of 37 x 37 patches.
"""

from ..common.models.setr_pup_dinov2 import model
from ..common.recipes.msrs_segmentation import data, dataloader, lr_multiplier, optimizer, train

dataloader.train.mapper.augmentations[1].crop_size = (518, 518)

train.init_checkpoint = "timm://vit_large_patch14_reg4_dinov2.lvd142m"
