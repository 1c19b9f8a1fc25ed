"""DINO on Swin-L of window 12, with five scales: all four stages and a coarser one (arXiv 2203.03605)."""

from detectron2.config import LazyCall as L

from ivtuning.backbones.stems import PromptStem
from ivtuning.backbones.swin import SWIN_SIZES, Swin
from ivtuning.heads.dino import (
    ContrastiveDenoising,
    Criterion,
    HungarianMatcher,
    PairedDINO,
    Transformer,
)
from ivtuning.necks.multi_scale import MultiScale
from ivtuning.tuning import IVTuning

model = L(PairedDINO)(
    backbone=L(MultiScale)(
        net=L(Swin)(
            stem=L(PromptStem)(), tuner=L(IVTuning)(), drop_path_rate=0.2, **SWIN_SIZES["swin_l_w12"]
        ),
        # Batches are padded to their largest image, no further.
        size_divisibility=1,
    ),
    # Four scales: model.backbone.net.out_indices=[1,2,3] model.transformer.num_levels=4
    transformer=L(Transformer)(
        num_classes="${..num_classes}",
        embed_dim=256,
        num_heads=8,
        feedforward_dim=2048,
        encoder_layers=6,
        decoder_layers=6,
        num_levels=5,
        num_points=4,
        num_queries=900,
        temperature=20.0,
        share_heads=True,
    ),
    num_classes=6,
    max_detections_per_image=300,
    denoising=L(ContrastiveDenoising)(num_dn_queries=100, label_noise_ratio=0.5, box_noise_scale=1.0),
    criterion=L(Criterion)(
        matcher=L(HungarianMatcher)(class_weight=2.0, box_weight=5.0, giou_weight=2.0),
        class_weight=1.0,
        box_weight=5.0,
        giou_weight=2.0,
    ),
    # Visible: ImageNet, x255. Infrared: 0.425 and 0.2 of 255, the only figures the original's code gives.
    pixel_mean=[123.675, 116.28, 103.53, 108.375, 108.375, 108.375],
    pixel_std=[58.395, 57.12, 57.375, 51.0, 51.0, 51.0],
)
