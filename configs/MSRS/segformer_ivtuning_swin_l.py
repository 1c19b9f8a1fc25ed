"""SegFormer on Swin-L with IV-tuning, MSRS segmentation, nine classes, 512 px.

The recipe is not published. Our choice: common/recipes/msrs_segmentation.py.
"""

from ..common.models.segformer_swin import model
from ..common.recipes.msrs_segmentation import data, dataloader, lr_multiplier, optimizer, train

train.init_checkpoint = "timm://swin_large_patch4_window12_384.ms_in22k"
