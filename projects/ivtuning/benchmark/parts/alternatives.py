"""Training steps of what a user would otherwise run, against ours.

detectron2's own ViT, fully fine-tuned on six channels, and peft's LoRA on timm's ViT, whose steps take turns
with those of the same trunks here. detectron2 has a ViT on its main branch alone, and peft is no requirement:
where one is not installed, its rows say so.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ... import compat
from ...backbones.presets import TRUNKS
from ...backbones.trunk import Trunk
from ...errors import UserError
from ...methods import METHODS
from ...tuning import LoRA
from ..measures.timing import interleaved, summary
from ..options import Options
from ..report import Result, Row, absolute
from ..subjects.reference import plain
from ..subjects.trunks import build
from .step import prepare

# Pixels at which plain ViTs are pretrained, and the rank of both LoRAs.
PLAIN_SIZE = (224, 224)
RANK = 16


def measure(options: Options) -> Result:
    """Rows alternatives_*: our step over theirs, in seconds and in saved activations.

    Args:
        options: `trunk` names a ViTDet, "vitdet_b" by default; `depth`, `batch`, `repeats` and `dtype` are
            those of both trunks.

    Raises:
        UserError: another kind of trunk.
    """
    name = options.trunk or "vitdet_b"
    if name not in TRUNKS or not name.startswith("vitdet_"):
        raise UserError(f"--trunk {name}: alternatives has a ViTDet and the plain ViT of its size: vitdet_b")
    size = options.size or (512, 512)
    vit = name.replace("vitdet", "vit")
    result = Result(
        f"{options.describe(name, size)}, and {vit} at {PLAIN_SIZE[0]} x {PLAIN_SIZE[1]} px with LoRA of "
        f"rank {RANK}; pairs are six channels; a step is forward, backward, AdamW on the sum of squares"
    )
    on_vitdet: dict[str, Callable[[], nn.Module]] = {
        "IV-tuning": partial(_ours, options, name, "IVTuning"),
        "IV-tuning, plain modules": lambda: plain(_ours(options, name, "IVTuning")),
        "full fine-tuning": partial(_ours, options, name, "Full"),
    }
    if compat.has_vit():
        on_vitdet["detectron2's ViT, full fine-tuning"] = partial(_detectron2_vit, options, name)
    _compare(result, "vit", on_vitdet, options, size)
    on_vit: dict[str, Callable[[], nn.Module]] = {
        "IV-tuning, plain ViT": partial(_ours, options, vit, "IVTuning"),
        "LoRA": partial(_ours, options, vit, "LoRA"),
    }
    if importlib.util.find_spec("peft"):
        on_vit["peft's LoRA on timm's ViT"] = partial(_peft_lora, options, vit)
    _compare(result, "peft", on_vit, options, PLAIN_SIZE)
    return result


# row: our run, their run
PAIRS = {
    "vit": {
        "alternatives_full": ("full fine-tuning", "detectron2's ViT, full fine-tuning"),
        "alternatives_iv": ("IV-tuning", "detectron2's ViT, full fine-tuning"),
        "alternatives_plain": ("IV-tuning", "IV-tuning, plain modules"),
    },
    "peft": {
        "alternatives_lora": ("LoRA", "peft's LoRA on timm's ViT"),
        "alternatives_iv_lora": ("IV-tuning, plain ViT", "peft's LoRA on timm's ViT"),
    },
}


def _compare(
    result: Result,
    key: str,
    makers: dict[str, Callable[[], nn.Module]],
    options: Options,
    size: tuple[int, int],
) -> None:
    """Measure the runs of `makers` in turns, and add their rows and their absolute figures."""
    x = options.random_pairs(size)
    steps, saved = prepare(makers, x, options)
    times = interleaved(steps, options.repeats, f"step, {key}", options.warmup, may_not_fit=True)
    result.raw[f"{key}_saved_bytes"], result.raw[f"{key}_step_seconds"] = saved, summary(times)
    for row, (ours, theirs) in PAIRS[key].items():
        if theirs not in makers:
            lacking = "peft" if key == "peft" else "detectron2's main branch"
            result.rows[row] = result.rows[f"{row}_saved"] = Row(note=f"needs {lacking}")
            continue
        result.rows[row] = Row.between(times, ours, theirs)
        result.rows[f"{row}_saved"] = Row.of_bytes(saved, ours, theirs)
    result.listings.append(absolute(makers, times, options.batch, "ms a step", {"saved GB": saved}))


def _ours(options: Options, name: str, method: str) -> Trunk:
    stem, tuner = METHODS[method].plugins()
    if method == "LoRA":
        tuner = LoRA(rank=RANK, alpha=RANK)
    return build(name, stem, tuner, options.depth, device=options.device)


class _Outputs(nn.Module):
    """A model of six channels with its output in a dict, as a trunk has it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.model(x)}


def _detectron2_vit(options: Options, name: str) -> nn.Module:
    """Built as in detectron2's configs/common/models/mask_rcnn_vitdet.py, for six channels."""
    from detectron2.modeling.backbone.vit import ViT

    ours = build(name, *METHODS["Full"].plugins(), options.depth, device="meta")
    model = ViT(
        in_chans=6,
        **_size_of(name),
        depth=len(ours.blocks),
        window_size=14,
        window_block_indexes=[i for i, block in enumerate(ours.blocks) if block.window_size],
        use_rel_pos=True,
        out_feature="last_feat",
    )
    return model.to(options.device).train()


def _peft_lora(options: Options, name: str) -> nn.Module:
    """timm's ViT for six channels; its patch embedding trains as well, since that is new to it."""
    from peft import LoraConfig, inject_adapter_in_model

    depth = options.depth or TRUNKS[name].keywords["depth"]
    model = VisionTransformer(
        img_size=PLAIN_SIZE, in_chans=6, num_classes=0, global_pool="", depth=depth, **_size_of(name)
    )
    model = inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["qkv"]), model)
    model.patch_embed.requires_grad_(True)
    return _Outputs(model).to(options.device).train()


def _size_of(name: str) -> dict[str, int]:
    return {key: TRUNKS[name].keywords[key] for key in ("embed_dim", "num_heads")}
