"""SegFormer on ViT-Ti with IV-tuning, salient objects of VT5000 at 256 px, for CPUs. All is our choice."""

from detectron2.config import LazyCall as L

from ivtuning.heads.segmentation.losses import CrossEntropy, IoU, Sum

from ..common.data.salient import data, dataloader
from ..common.models.segformer_vit_t import model
from ..common.models.vit_t import WEIGHTS, methods
from ..common.optim import optimizer
from ..common.schedule import cosine
from ..common.train import train

model.sem_seg_head.num_classes = 2
model.sem_seg_head.loss = L(Sum)(losses=[L(CrossEntropy)(), L(IoU)(classes=[1])])

for part in ("train", "test"):
    dataloader[part].mapper.augmentations[-1].shape = (256, 256)
dataloader.train.total_batch_size = 8
optimizer.lr = 1e-3
optimizer.weight_decay = 0.05
optimizer.params.trunk_lr_factor = 0.1  # for method=Full

train.max_iter = 3000
lr_multiplier = cosine(warmup=0.1)
train.clip_grad_norm = 1.0
train.init_checkpoint = WEIGHTS
train.eval_period = train.checkpointer.period = 1000
train.best_metric = "saliency/S"
