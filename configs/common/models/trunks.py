"""Trunks with the stem and the tuner of the two papers."""

from detectron2.config import LazyCall as L

from ivtuning.backbones.dinov2 import DINOV2_SIZES, DINOv2
from ivtuning.backbones.dinov3 import DINOV3_SIZES, DINOv3
from ivtuning.backbones.swin import SWIN_SIZES, Swin
from ivtuning.tuning import IVTuning, Mona
from ivtuning.tuning.stems import PromptStem, VisibleOnly


def paired_swin(size):
    """A Swin on pairs with IV-tuning; `size` is a key of SWIN_SIZES."""
    return L(Swin)(stem=L(PromptStem)(), tuner=L(IVTuning)(), drop_path_rate=0.2, **SWIN_SIZES[size])


def paired_dinov2(size, **options):
    """A DINOv2 on pairs with IV-tuning; `size` is a key of DINOV2_SIZES, `options` as in DINOv2."""
    return L(DINOv2)(stem=L(PromptStem)(), tuner=L(IVTuning)(), **DINOV2_SIZES[size], **options)


def paired_dinov3(size, **options):
    """A DINOv3 on pairs with IV-tuning; `size` is a key of DINOV3_SIZES, `options` as in DINOv3."""
    return L(DINOv3)(stem=L(PromptStem)(), tuner=L(IVTuning)(), **DINOV3_SIZES[size], **options)


def visible_swin(size, drop_path_rate, **options):
    """A Swin on visible images with Mona; `options` as in Swin."""
    return L(Swin)(
        stem=L(VisibleOnly)(),
        tuner=L(Mona)(),
        drop_path_rate=drop_path_rate,
        # As in the paper's code, the frozen trunk's drop-path stays on in training.
        frozen_eval=False,
        **SWIN_SIZES[size],
        **options,
    )
