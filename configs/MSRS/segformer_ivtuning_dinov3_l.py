"""SegFormer on DINOv3-L with IV-tuning, MSRS segmentation, nine classes, 512 px.

No recipe is published. Our choice: common/recipes/msrs_segmentation.py. The weights have a license of their
own, docs/weights.md.
"""

from ..common.models.segformer_dinov3 import model
from ..common.recipes.msrs_segmentation import data, dataloader, lr_multiplier, optimizer, train

train.init_checkpoint = "timm://vit_large_patch16_dinov3.lvd1689m"
