"""DINO of IDEA-Research: its own repository's checkpoints, and detrex's.

The names of its own repository are listed in :mod:`ivtuning.heads.dino`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from .family import Family, Rules, State, numbers, same, shift

_HEADS = ("class_embed", "bbox_embed")

# Layers of mmcv's transformers, which detrex builds alike. 3.x of mmdetection has no lists in them.
_ENCODER, _DECODER = r"^(transformer\.encoder\.layers\.\d+)", r"^(transformer\.decoder\.layers\.\d+)"
_LAYER = r"^(transformer\.(?:en|de)coder\.layers\.\d+)"
LAYERS: Rules = [
    (rf"{_DECODER}\.(?:attentions\.0|self_attn)\.attn\.", r"\1.self_attn."),
    (rf"{_DECODER}\.attentions\.1\.", r"\1.cross_attn."),
    (rf"{_ENCODER}\.attentions\.0\.", r"\1.self_attn."),
    (rf"{_LAYER}\.ffns?(?:\.0)?\.layers\.0\.0\.", r"\1.linear1."),
    (rf"{_LAYER}\.ffns?(?:\.0)?\.layers\.1\.", r"\1.linear2."),
    (rf"{_ENCODER}\.norms\.(\d)\.", shift(r"\1.norm{}.", 1)),
    # There norms are numbered in the order of use; here norm1 belongs to the attention to the maps.
    (rf"{_DECODER}\.norms\.0\.", r"\1.norm2."),
    (rf"{_DECODER}\.norms\.1\.", r"\1.norm1."),
    (rf"{_DECODER}\.norms\.2\.", r"\1.norm3."),
    (r"^transformer\.level_embeds$", "transformer.level_embed"),
]


def neck_rules(state: Mapping[str, Tensor]) -> Rules:
    """Rules for a ChannelMapper, which numbers its coarser levels separately."""
    maps = len(numbers(state, r"^neck\.convs\.(\d+)\."))
    return [
        (r"^neck\.convs\.(\d+)\.conv\.", r"neck.\1.0."),
        (r"^neck\.convs\.(\d+)\.(?:gn|norm)\.", r"neck.\1.1."),
        (r"^neck\.extra_convs\.(\d+)\.conv\.", shift("neck.{}.0.", maps)),
        (r"^neck\.extra_convs\.(\d+)\.(?:gn|norm)\.", shift("neck.{}.1.", maps)),
    ]


def share_heads(state: State, own: Mapping[str, Tensor]) -> list[str]:
    """Keep only the first of the decoder's heads where the model has one for all layers."""
    notes = []
    for head in _HEADS:
        pattern = rf"^transformer\.decoder\.{head}\.(\d+)\."
        if len(numbers(state, pattern)) < 2 or len(numbers(own, pattern)) != 1:
            continue
        kept = {n: t for n, t in state.items() if re.match(pattern, n) and re.match(pattern, n)[1] == "0"}
        alike = True
        for name in [n for n in state if re.match(pattern, n) and n not in kept]:
            first = re.sub(rf"({head})\.\d+", r"\1.0", name)
            alike &= first in kept and same(state.pop(name), kept[first])
        if not alike:
            notes.append(
                f"every layer of the decoder has its own {head} in the file: the first is taken for all; "
                "model.transformer.share_heads=False keeps them"
            )
    return notes


def _dino(state: Mapping[str, Tensor]) -> Rules:
    return [
        (r"^backbone\.0\.", "backbone.net."),
        (r"^input_proj\.", "neck."),
        (r"^(class|bbox)_embed\.", r"transformer.decoder.\1_embed."),
    ]


def _detrex(state: Mapping[str, Tensor]) -> Rules:
    last = max(numbers(state, r"^(?:transformer\.decoder\.)?class_embed\.(\d+)\."), default=0)
    return [
        (r"^backbone\.", "backbone.net."),
        *neck_rules(state),
        *LAYERS,
        # The head after the last layer's is the encoder's.
        (rf"^(?:transformer\.decoder\.)?(class|bbox)_embed\.{last}\.", r"transformer.enc_out_\1_embed."),
        (r"^(class|bbox)_embed\.", r"transformer.decoder.\1_embed."),
    ]


def _adapt_detrex(state: State, own: Mapping[str, Tensor]) -> list[str]:
    return [
        *share_heads(state, own),
        "detrex embeds places otherwise: set model.transformer.temperature=10000 (its shift by half a place "
        "is not made here)",
    ]


DINO = Family(
    name="dino",
    what="IDEA-Research/DINO",
    mark=r"^backbone\.0\.patch_embed\.",
    rules=_dino,
    adapt=share_heads,
)
DETREX_DINO = Family(
    name="detrex-dino",
    what="DINO of IDEA-Research/detrex",
    mark=r"^transformer\.decoder\.layers\.0\.attentions\.",
    rules=_detrex,
    adapt=_adapt_detrex,
)
