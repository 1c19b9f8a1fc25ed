"""Mona (arXiv 2408.08345) on Swin-B, Oriented R-CNN, STAR in tiles of 1024 px: 12 epochs.

Model and recipe are those of the authors' config. Differences: the batch is 8, where they have 2 per GPU, of
GPUs that they do not count; bf16. Iterations are those for DOTA's tiles, see datasets/README.md. The
published figure is of whole test images: `merge_tiles.py --set star --part test --iou 0.4` merges the tiles.
"""

from ..common.constants import VISIBLE_MEAN, VISIBLE_STD
from ..common.models.faster_rcnn_swin import model
from ..common.models.oriented import orient_rcnn
from ..common.models.trunks import visible_swin
from ..DOTA.faster_rcnn_mona_swin_b import data, dataloader, lr_multiplier, optimizer, train

model.backbone.net = visible_swin("swin_b", drop_path_rate=0.2)
orient_rcnn(model)
model.update(pixel_mean=VISIBLE_MEAN, pixel_std=VISIBLE_STD)

rpn, heads = model.proposal_generator, model.roi_heads
rpn.head.conv_dims = [-1]
rpn.update(smooth_l1_beta=1 / 9, anchor_boundary_thresh=0)
rpn.update(pre_nms_topk=(2000, 2000), post_nms_topk=(2000, 2000))
heads.num_classes = 48
heads.box_pooler.sampling_ratio = 2
heads.box_head.update(conv_dims=[], fc_dims=[1024, 1024], conv_norm="")
heads.box_predictor.update(cls_agnostic_bbox_reg=True, smooth_l1_beta=1.0, test_topk_per_image=2000)

dataloader.train.dataset.names = "star_tiles_train"
dataloader.test.dataset.names = "star_tiles_val"
