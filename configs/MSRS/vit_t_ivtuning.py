"""ViT-Ti with IV-tuning on MSRS boxes at 384x512 px (height x width), for CPUs. All settings are our choice.

``method=<name>`` chooses the other methods, whose adapters have the same share of the trunk, see
configs/common/models/vit_t.py. Other sets, or JSON files, are data.train=... data.val=...
"""

from detectron2.config import LazyCall as L

from ivtuning.data.transforms.photometric import Contrast, Gain
from ivtuning.tuning.stems import SumStem

from ..common.data.lsj import data, dataloader
from ..common.models.faster_rcnn_vit_t import model
from ..common.models.vit_t import WEIGHTS, methods
from ..common.optim import optimizer
from ..common.schedule import cosine
from ..common.train import train

data.update(train="msrs_det_train", val="msrs_det_val")
dataloader.train.dataset.names = "${data.train}"
dataloader.test.dataset.names = "${data.val}"
dataloader.train.total_batch_size = 4
height, width = 384, 512
_, jitter, crop = dataloader.train.mapper.augmentations
jitter.update(min_scale=0.8, max_scale=1.5, target_height=height, target_width=width)
crop.crop_size = (height, width)
dataloader.test.mapper.augmentations[0].update(short_edge_length=height, max_size=width)
dataloader.train.mapper.update({key: [L(Gain)(), L(Contrast)()] for key in ("photometric", "photometric_ir")})
model.roi_heads.num_classes = 3
model.backbone.net.stem = L(SumStem)()  # nearly twice the AP of persons, docs/results/msrs_boxes.md

optimizer.lr = 3e-4  # the best of four for most tuners, docs/results/msrs_boxes.md
optimizer.weight_decay = 0.05
optimizer.params.trunk_lr_factor = 0.3  # for method=Full

train.max_iter = 1000
lr_multiplier = cosine(warmup=0.1)
train.clip_grad_norm = 1.0
train.init_checkpoint = WEIGHTS
train.eval_period = train.checkpointer.period = 500
