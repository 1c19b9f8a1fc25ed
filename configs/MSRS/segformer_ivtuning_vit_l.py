"""SegFormer on ViT-L with IV-tuning, MSRS segmentation, nine classes, 512 px.

The recipe is not published. Our choice: common/recipes/msrs_segmentation.py.
"""

from ..common.models.segformer_vit import model
from ..common.recipes.msrs_segmentation import data, dataloader, lr_multiplier, optimizer, train

train.init_checkpoint = "timm://vit_large_patch16_224.mae"
