"""DINO on Swin-L of window 12, with five scales: all four stages and a coarser one (arXiv 2203.03605)."""

from detectron2.config import LazyCall as L

from ivtuning.heads.dino import (
    ContrastiveDenoising,
    Criterion,
    HungarianMatcher,
    PairedDINO,
    Transformer,
)
from ivtuning.necks.multi_scale import MultiScale

from ..constants import PAIR_MEAN, PAIR_STD
from .trunks import paired_swin

model = L(PairedDINO)(
    backbone=L(MultiScale)(
        net=paired_swin("swin_l_w12"),
        # Batches are padded to their largest image, and no further.
        size_divisibility=1,
    ),
    # For four scales: model.backbone.net.out_indices=[1,2,3] model.transformer.num_levels=4
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
    pixel_mean=PAIR_MEAN,
    pixel_std=PAIR_STD,
)
