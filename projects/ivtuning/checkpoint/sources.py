"""Addresses of public weights, for messages about a missing file."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import nearest

_FAIR = "https://dl.fbaipublicfiles.com"
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
    "model_final_61ccd1.pkl": f"{_VITDET}/mask_rcnn_vitdet_b/f325346929/model_final_61ccd1.pkl",
    "model_final_6146ed.pkl": f"{_VITDET}/mask_rcnn_vitdet_l/f325599698/model_final_6146ed.pkl",
    "model_final_7224f1.pkl": f"{_VITDET}/mask_rcnn_vitdet_h/f329145471/model_final_7224f1.pkl",
    "model_final_435fa9.pkl": f"{_VITDET}/cascade_mask_rcnn_vitdet_b/f325358525/model_final_435fa9.pkl",
    "model_final_1a9f28.pkl": f"{_VITDET}/cascade_mask_rcnn_vitdet_l/f328021305/model_final_1a9f28.pkl",
    "model_final_f05665.pkl": f"{_VITDET}/cascade_mask_rcnn_vitdet_h/f328730692/model_final_f05665.pkl",
}

# Starting points that tools/convert_checkpoint.py writes: the family of the file to convert, and the config.
_CONVERTED = {"dino_swin_l_5scale_coco.safetensors": ("dino", "configs/M3FD/dino_ivtuning_swin_l.py")}


def where_from(file: Path) -> str:
    """How to get the missing `file`, as a message's last words: a command where its name is known."""
    if file.name in SOURCES:
        return f": get it with `curl -L --create-dirs -o {file} {SOURCES[file.name]}`"
    if file.name in _CONVERTED:
        family, config = _CONVERTED[file.name]
        command = f"tools/convert_checkpoint.py --from {family} DOWNLOADED.pth {file} --config-file {config}"
        return f": make it with `{command}`"
    if file.name == "trunk.pth":
        return ": `make demo` makes output/demo/trunk.pth; train.init_checkpoint= starts from random weights"
    import timm

    if timm.is_model(file.stem):
        model = f"timm.create_model('{file.stem}', pretrained=True)"
        library = "safetensors.torch" if file.suffix == ".safetensors" else "torch"
        save = "s.save_file" if file.suffix == ".safetensors" else "s.save"
        code = f"import timm, {library} as s; {save}({model}.state_dict(), '{file}')"
        return f': get it with `python -c "{code}"`'
    near = nearest(file.name, os.listdir(file.parent)) if file.parent.is_dir() else ""
    return near or ": check the path given for the weights"
