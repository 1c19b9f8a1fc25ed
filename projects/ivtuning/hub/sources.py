"""Addresses and digests of public weights."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import nearest

_FAIR = "https://dl.fbaipublicfiles.com"
DETECTRON2 = f"{_FAIR}/detectron2/"  # what detectron2:// stands for
_SWIN = "https://github.com/SwinTransformer/storage/releases/download"
_SWINS = [
    "tiny_patch4_window7_224",
    "small_patch4_window7_224",
    "base_patch4_window7_224",
    "base_patch4_window12_384",
    "base_patch4_window7_224_22k",
    "base_patch4_window12_384_22k",
    "large_patch4_window7_224_22k",
    "large_patch4_window12_384_22k",
    "base_patch4_window7_224_22kto1k",
    "base_patch4_window12_384_22kto1k",
    "large_patch4_window7_224_22kto1k",
    "large_patch4_window12_384_22kto1k",
]
_EVA = "https://huggingface.co/Yuxin-CV/EVA-02/resolve/main/eva02/pt"
_VITDET = f"{_FAIR}/detectron2/ViTDet/COCO"

# Public weight files by name, and their addresses.
SOURCES = {
    "mae_pretrain_vit_base.pth": f"{_FAIR}/mae/pretrain/mae_pretrain_vit_base.pth",
    "mae_pretrain_vit_large.pth": f"{_FAIR}/mae/pretrain/mae_pretrain_vit_large.pth",
    "mae_pretrain_vit_huge.pth": f"{_FAIR}/mae/pretrain/mae_pretrain_vit_huge.pth",
    "mae_pretrain_vit_huge_p14to16.pth": (
        f"{_FAIR}/detectron2/ImageNetPretrained/MAE/mae_pretrain_vit_huge_p14to16.pth"
    ),
    "sam_vit_b_01ec64.pth": f"{_FAIR}/segment_anything/sam_vit_b_01ec64.pth",
    "sam_vit_l_0b3195.pth": f"{_FAIR}/segment_anything/sam_vit_l_0b3195.pth",
    "sam_vit_h_4b8939.pth": f"{_FAIR}/segment_anything/sam_vit_h_4b8939.pth",
    **{f"swin_{name}.pth": f"{_SWIN}/v1.0.0/swin_{name}.pth" for name in _SWINS},
    "eva02_L_pt_m38m_p14to16.pt": f"{_EVA}/eva02_L_pt_m38m_p14to16.pt",
    **{
        f"dinov2_vit{size}14{kind}_pretrain.pth": (
            f"{_FAIR}/dinov2/dinov2_vit{size}14/dinov2_vit{size}14{kind}_pretrain.pth"
        )
        for size in "sblg"
        for kind in ("", "_reg4")
    },
    "model_final_61ccd1.pkl": f"{_VITDET}/mask_rcnn_vitdet_b/f325346929/model_final_61ccd1.pkl",
    "model_final_6146ed.pkl": f"{_VITDET}/mask_rcnn_vitdet_l/f325599698/model_final_6146ed.pkl",
    "model_final_7224f1.pkl": f"{_VITDET}/mask_rcnn_vitdet_h/f329145471/model_final_7224f1.pkl",
    "model_final_435fa9.pkl": f"{_VITDET}/cascade_mask_rcnn_vitdet_b/f325358525/model_final_435fa9.pkl",
    "model_final_1a9f28.pkl": f"{_VITDET}/cascade_mask_rcnn_vitdet_l/f328021305/model_final_1a9f28.pkl",
    "model_final_f05665.pkl": f"{_VITDET}/cascade_mask_rcnn_vitdet_h/f328730692/model_final_f05665.pkl",
}

# SHA-256 of files, by their addresses, where it is known.
DIGESTS = {
    SOURCES["sam_vit_b_01ec64.pth"]: "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    SOURCES["sam_vit_l_0b3195.pth"]: "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    SOURCES["sam_vit_h_4b8939.pth"]: "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
}


def where_from(file: Path) -> str:
    """How to get the missing `file`, as a message's last words: an address where its name is known."""
    if file.name in SOURCES:
        return f": give its address instead, {SOURCES[file.name]}, which is fetched once"
    if file.name == "trunk.pth":
        return ": `make demo` makes output/demo/trunk.pth; train.init_checkpoint= starts from random weights"
    import timm

    if timm.is_model(file.stem) or file.stem in timm.list_pretrained():
        return f": give timm://{file.stem} instead, which is fetched once"
    near = nearest(file.name, os.listdir(file.parent)) if file.parent.is_dir() else ""
    return near or ": check the path given for the weights"
