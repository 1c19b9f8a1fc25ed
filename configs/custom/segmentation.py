"""Label maps of your own pairs: SegFormer on ViT-B with IV-tuning at 512 px. All settings are our choice.

Name the files on the command line: data.train=my_train.json data.val=my_val.json data.images=/data/mine. The
classes follow from the JSON; docs/own_data.md.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from ..common.data.segmentation import data, dataloader
from ..common.models.segformer_vit import model
from ..common.optim import optimizer
from ..common.schedule import poly
from ..common.train import train

data.update(train="???", val="???")
dataloader.train.dataset.names = "${data.train}"
dataloader.test.dataset.names = "${data.val}"
dataloader.train.total_batch_size = 8
# 0.5 to 2 times 512 px, from which 512 px are cut.
dataloader.train.mapper.augmentations[0] = L(T.ResizeShortestEdge)(
    short_edge_length=(256, 1024), max_size=2560, sample_style="range"
)

model.backbone.net.update(embed_dim=768, depth=12, num_heads=12, out_indices=(2, 5, 8, 11))
model.sem_seg_head.num_classes = "auto"
model.sem_seg_head.decoder.update(
    in_features=["block2", "block5", "block8", "block11"], in_channels=["${....backbone.net.embed_dim}"] * 4
)

optimizer.lr = 1e-4
optimizer.weight_decay = 0.05

train.max_iter = 5000
lr_multiplier = poly(power=0.9, warmup=250)
train.precision = "bf16"
train.init_checkpoint = "timm://vit_base_patch16_224.mae"
train.eval_period = train.checkpointer.period = 500
train.best_metric = "sem_seg/mIoU"
