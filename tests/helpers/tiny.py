"""Trunks and detectors small enough for a test."""

from __future__ import annotations

import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from torch import nn

from ivtuning.backbones.dinov2 import DINOv2
from ivtuning.backbones.dinov3 import DINOv3
from ivtuning.backbones.eva import Eva02
from ivtuning.backbones.swin import Swin
from ivtuning.backbones.vit import PlainViT, ViTDet
from ivtuning.config import load_config
from ivtuning.heads.segmentation.fcn import FCN
from ivtuning.heads.segmentation.head import SemSegHead
from ivtuning.heads.segmentation.segmentor import PairedSemanticSegmentor
from ivtuning.necks.multi_scale import MultiScale
from ivtuning.tuning import IVTuning, Mona, Tuner
from ivtuning.tuning.stems import PromptStem, Stem

SIZE = dict(embed_dim=24, depth=4, num_heads=2, patch_size=8)


def plugins(stem: Stem | None, tuner: Tuner | None) -> tuple[Stem, Tuner]:
    """Defaults for what a test leaves open: IV-tuning, or Mona with a stem that uses one image alone."""
    stem = stem or PromptStem()
    if tuner is None:
        tuner = (IVTuning if len(getattr(stem, "uses", "")) == 2 else Mona)(hidden_dim=16)
    return stem, tuner


def vitdet(stem: Stem | None = None, tuner: Tuner | None = None, **kwargs) -> ViTDet:
    """Four blocks of width 24, patch 8, windows of 3; blocks 1 and 3 are global."""
    options = dict(img_size=48, pretrain_img_size=40, window_size=3, global_blocks=(1, 3), **SIZE)
    return ViTDet(*plugins(stem, tuner), **{**options, **kwargs})


def plain_vit(stem: Stem | None = None, tuner: Tuner | None = None, **kwargs) -> PlainViT:
    """Four blocks of width 24, patch 8, with a cls token."""
    options = dict(img_size=48, out_indices=(1, 3), **SIZE)
    return PlainViT(*plugins(stem, tuner), **{**options, **kwargs})


def swin(stem: Stem | None = None, tuner: Tuner | None = None, **kwargs) -> Swin:
    """Three stages of two blocks, widths 8, 16 and 32, windows of 3, patch 4."""
    options = dict(embed_dim=8, depths=(2, 2, 2), num_heads=(1, 2, 4), window_size=3, out_indices=(0, 1, 2))
    return Swin(*plugins(stem, tuner), **{**options, **kwargs})


def detector(*overrides: str):
    """The demo's nano detector, narrower, seeded."""
    cfg = load_config(
        "configs/synthetic/ivtuning.py",
        [
            "model.backbone.net.embed_dim=24",
            "model.backbone.net.num_heads=2",
            "model.backbone.out_channels=16",
        ]
        + ["model.roi_heads.box_head.conv_dims=[16]", "model.roi_heads.box_head.fc_dims=[32]", *overrides],
    )
    torch.manual_seed(0)
    return instantiate(cfg.model)


def sample(height: int = 64, width: int = 96, objects: int = 2, seed: int = 0) -> dict:
    """One sample as the mapper gives it, with random pixels."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=generator)
    corner = torch.rand(objects, 2, generator=generator) * 30
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.cat([corner, corner + 16], 1))
    instances.gt_classes = torch.arange(objects) % 4
    return dict(
        image=image[0],
        image_ir=image[1],
        instances=instances,
        height=height,
        width=width,
        file_name=f"vis/{seed}.png",
        image_id=seed,
    )


MEAN, STD = [120.0, 110.0, 100.0, 90.0, 80.0, 70.0], [60.0, 50.0, 40.0, 60.0, 50.0, 40.0]
CLASSES = 3
FEATURES = {swin: ("p2", 32), plain_vit: ("block3", 24), vitdet: ("last_feat", 24)}


def segmentor(trunk=swin, divisibility=16, **kwargs) -> PairedSemanticSegmentor:
    """A tiny trunk with IV-tuning, a linear layer on its last map, three classes; seeded."""
    torch.manual_seed(0)
    decoder = FCN(*FEATURES[trunk], CLASSES, convs=0, dropout=0.0)
    nn.init.normal_(decoder.classifier[-1].weight)
    return PairedSemanticSegmentor(
        backbone=MultiScale(trunk(), divisibility),
        sem_seg_head=SemSegHead(decoder, CLASSES),
        pixel_mean=MEAN,
        pixel_std=STD,
        **kwargs,
    )


def labeled(height=37, width=53, seed=0) -> dict:
    """A sample with random labels, a tenth of them ignored."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (height, width), generator=generator)
    labels[torch.rand(height, width, generator=generator) < 0.1] = 255
    x = sample(height, width, seed=seed)
    del x["instances"]
    return {**x, "sem_seg": labels}


def eva(stem: Stem | None = None, tuner: Tuner | None = None, **kwargs) -> Eva02:
    """Four blocks of width 24, patch 8, with a cls token and rotary positions."""
    options = dict(
        img_size=48, patch_size=8, embed_dim=24, depth=4, num_heads=2, out_indices=(1, 3), rope_grid=4
    )
    return Eva02(*plugins(stem, tuner), **{**options, **kwargs})


# LayerScale of 1, so that what an adapter does inside a block shows.
DINO = dict(SIZE, embed_dim=32, out_indices=(1, 3), reg_tokens=2, init_values=1.0)


def dinov2(stem: Stem | None = None, tuner: Tuner | None = None, **kwargs) -> DINOv2:
    """Four blocks of width 32, patch 8, with a cls token, two registers and LayerScale."""
    return DINOv2(*plugins(stem, tuner), **{**DINO, "img_size": 48, **kwargs})


def dinov3(stem: Stem | None = None, tuner: Tuner | None = None, **kwargs) -> DINOv3:
    """Like :func:`dinov2`, with rotary positions and gated MLPs."""
    return DINOv3(*plugins(stem, tuner), **{**DINO, "swiglu_mlp": True, **kwargs})


# One of every kind, in the smallest size.
TRUNKS = {
    "ViTDet": vitdet,
    "PlainViT": plain_vit,
    "Swin": swin,
    "Eva02": eva,
    "DINOv2": dinov2,
    "DINOv3": dinov3,
}
