"""Boxes on your own pairs: ViTDet-B with IV-tuning at 640 px. All settings are our choice; docs/own_data.md.

Name the files on the command line: data.train=my_train.json data.val=my_val.json data.images=/data/mine. The
classes follow from the JSON. Other configs take the same files, configs/MSRS/nano_ivtuning.py for a CPU:
dataloader.train.dataset.names=my_train.json dataloader.test.dataset.names=my_val.json
model.roi_heads.num_classes=auto.
"""

from ..common.data.lsj import data, dataloader
from ..common.models.faster_rcnn_vitdet import model
from ..common.optim import optimizer
from ..common.schedule import cosine
from ..common.train import train

data.update(train="???", val="???")
dataloader.train.dataset.names = "${data.train}"
dataloader.test.dataset.names = "${data.val}"
dataloader.train.total_batch_size = 8

size = 640
_, jitter, crop = dataloader.train.mapper.augmentations
jitter.update(target_height=size, target_width=size)
crop.crop_size = (size, size)
dataloader.test.mapper.augmentations[0].update(short_edge_length=size, max_size=size)
model.square_pad = model.backbone.net.img_size = size
model.roi_heads.num_classes = "auto"

optimizer.lr = 1e-4
optimizer.weight_decay = 0.1
optimizer.params.layer_decay = 0.7

train.max_iter = 5000
lr_multiplier = cosine(warmup=250)
train.precision = "bf16"
train.init_checkpoint = "timm://vit_base_patch16_224.mae"
train.eval_period = train.checkpointer.period = 500
