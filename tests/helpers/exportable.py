"""Models to export: tiny, seeded, with values in everything that was added to the trunk."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from helpers import tiny
from ivtuning.export.comparison import Comparison
from ivtuning.export.export import export_model
from ivtuning.export.options import Options
from ivtuning.heads.classification import ImageClassifier
from ivtuning.heads.segmentation.segformer import SegFormer
from ivtuning.heads.segmentation.segmentor import PairedSemanticSegmentor
from ivtuning.heads.segmentation.setr import SETRPUP
from ivtuning.heads.segmentation.upernet import UPerNet
from ivtuning.necks.multi_scale import MultiScale
from ivtuning.necks.pooled import PooledTrunk
from ivtuning.tuning import Frozen, Mona
from ivtuning.tuning.stems import SumStem, VisibleOnly

SHALLOW = dict(depth=1, out_indices=(0,))
STAGES = dict(depths=(1, 2), num_heads=(1, 2), out_indices=(0, 1))


def filled(model: nn.Module) -> nn.Module:
    """The model in evaluation mode, with noise on what is zero at first and on running statistics."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "running_var" in name:
                tensor += torch.rand_like(tensor)
            elif tensor.is_floating_point() and ("tuner." in name or "stem." in name or "running" in name):
                tensor += 0.1 * torch.randn_like(tensor)
    return model.eval()


def segmentor(trunk: nn.Module, decoder=None, divisibility: int = 16, **kwargs) -> nn.Module:
    """A segmentor of three classes on `trunk`; `decoder` takes names and channels of its maps."""
    shapes = trunk.output_shape()
    names, widths = list(shapes), [shape.channels for shape in shapes.values()]
    if decoder is None:
        head: nn.Module = tiny.FCN(names[-1], widths[-1], tiny.CLASSES, convs=0, dropout=0.0)
    elif decoder is SETRPUP:
        head = SETRPUP(names[-1], widths[-1], num_classes=tiny.CLASSES, channels=64, norm="GN")
    else:
        head = decoder(names, widths, num_classes=tiny.CLASSES, channels=32, norm="BN")
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.3)
    return filled(
        PairedSemanticSegmentor(
            backbone=MultiScale(trunk, divisibility),
            sem_seg_head=tiny.SemSegHead(head, tiny.CLASSES),
            pixel_mean=tiny.MEAN,
            pixel_std=tiny.STD,
            **kwargs,
        )
    )


def plain_vit(**kwargs) -> nn.Module:
    torch.manual_seed(0)
    return segmentor(tiny.plain_vit(**SHALLOW), divisibility=8, **kwargs)


def setr(**kwargs) -> nn.Module:
    torch.manual_seed(0)
    return segmentor(tiny.plain_vit(**SHALLOW), SETRPUP, 8, **kwargs)


def eva(**kwargs) -> nn.Module:
    torch.manual_seed(0)
    return segmentor(tiny.eva(**SHALLOW), **kwargs)


def dinov2(**kwargs) -> nn.Module:
    torch.manual_seed(0)
    return segmentor(tiny.dinov2(SumStem(), Frozen(), **SHALLOW), **kwargs)


def dinov3(**kwargs) -> nn.Module:
    torch.manual_seed(0)
    return segmentor(tiny.dinov3(SumStem(), Frozen(), **SHALLOW), **kwargs)


def vitdet(**kwargs) -> nn.Module:
    torch.manual_seed(0)
    return segmentor(tiny.vitdet(SumStem(), Frozen(), depth=2, global_blocks=(1,)), **kwargs)


def swin(decoder=SegFormer, **kwargs) -> nn.Module:
    torch.manual_seed(0)
    return segmentor(tiny.swin(SumStem(), Frozen(), **STAGES), decoder, **kwargs)


def upernet(**kwargs) -> nn.Module:
    torch.manual_seed(0)
    return segmentor(tiny.swin(**STAGES), UPerNet, **kwargs)


def classifier() -> nn.Module:
    torch.manual_seed(0)
    trunk = PooledTrunk(tiny.plain_vit(VisibleOnly(), Mona(hidden_dim=4), **SHALLOW))
    return filled(ImageClassifier(trunk, 3, [120.0, 110.0, 100.0], [60.0, 50.0, 40.0]))


MODELS = {
    "plain_vit": plain_vit,
    "setr": setr,
    "eva": eva,
    "dinov2": dinov2,
    "dinov3": dinov3,
    "vitdet": vitdet,
    "swin": swin,
    "upernet": upernet,
    "classifier": classifier,
}

# How each of them is exported, and its options.
CASES = {
    # Width and height that no patch or window divides.
    "plain_vit": (Options((37, 53), dynamic=("batch",)), {"fill_missing": "mean"}),
    "eva": (Options((37, 53)), {"fill_missing": "zero"}),
    "dinov2": (Options((40, 56)), {}),
    "dinov3": (Options((40, 56)), {}),
    "vitdet": (Options((40, 56), dynamic=("size",)), {}),
    "swin": (Options((37, 53), dynamic=("size",), stage="raw"), {"decoder": None}),
    "classifier": (Options((40, 40), batch=2), {}),
}


def export(model: nn.Module, path, options, **kwargs) -> Comparison | None:
    return export_model(
        model, path, options, classes=["a", "b", "c"], config="configs/some/model.py", **kwargs
    )


def images(count: int, height: int, width: int, seed: int = 0) -> list[Tensor]:
    """Visible and infrared, (count, 3, height, width) uint8 each."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 3, height, width)
    return [torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator) for _ in range(2)]


def samples(visible: Tensor, infrared: Tensor | None, missing: int | None = None) -> list[dict]:
    """What the model itself takes; sample `missing` lacks its infrared image."""
    pairs = [{"image": image, "file_name": f"{i}.png"} for i, image in enumerate(visible)]
    for i, x in enumerate(pairs):
        if infrared is not None and i != missing:
            x["image_ir"] = infrared[i]
    return pairs
