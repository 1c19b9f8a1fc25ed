"""Small detectors of the configs, and conversions of foreign state dicts into them."""

from __future__ import annotations

from functools import cache

import torch
from detectron2.config import instantiate
from torch import Tensor, nn

from helpers.weights import randomize
from ivtuning.checkpoint.conversion import FAMILIES, class_tensors, convert
from ivtuning.config import load_config

DINO, CODINO = "configs/M3FD/dino_ivtuning_swin_l.py", "configs/M3FD/codetr_ivtuning_swin_l.py"
CASCADE, RETINANET = "configs/COCO/cascade_mask_rcnn_mona_swin_b.py", "configs/VOC/retinanet_mona_swin_l.py"
FASTER = "configs/M3FD/faster_rcnn_ivtuning_swin_b.py"


def set_(place: str, **options) -> list[str]:
    """Overrides of keys below one place of the model."""
    return [f"model.{place}{key}={value}" for key, value in options.items()]


TRUNK = set_("backbone.net.", embed_dim=8, depths="[2,1,1,1]", num_heads="[1,1,2,2]", window_size=3)
TRUNK += ["model.backbone.net.tuner.hidden_dim=4"]
QUERIES = set_(
    "transformer.",
    embed_dim=32,
    num_heads=2,
    feedforward_dim=16,
    encoder_layers=1,
    decoder_layers=2,
    num_queries=9,
)
TWO_MAPS = ["model.backbone.net.out_indices=[2,3]", "model.transformer.num_levels=3"]
SMALL = {
    DINO: [*TRUNK, *QUERIES, *TWO_MAPS],
    CODINO: [*TRUNK, *QUERIES, "model.roi_heads.box_head.fc_dims=[16,16]"],
    CASCADE: [
        *TRUNK[:-1],
        "model.backbone.out_channels=8",
        *(o for i in range(3) for o in set_(f"roi_heads.box_heads.{i}.", conv_dims=[8] * 4, fc_dims=[16])),
        f"model.roi_heads.mask_head.conv_dims={[8] * 5}",
    ],
    RETINANET: [
        *TRUNK[:-1],
        "model.backbone.out_channels=8",
        "model.backbone.top_block.in_channels=64",
        f"model.head.conv_dims={[8] * 4}",
    ],
    FASTER: [
        *TRUNK[:-1],
        "model.backbone.out_channels=8",
        *set_("roi_heads.box_head.", conv_dims=[8] * 4, fc_dims=[16]),
    ],
}
NO_PLUGS = ["model.backbone.net.stem=VisibleOnly", "model.backbone.net.tuner=Frozen"]


def build(config: str, *overrides: str) -> nn.Module:
    """A small detector of a config, all of it random."""
    torch.manual_seed(0)
    return randomize(instantiate(load_config(config, [*SMALL[config], *overrides]).model), 1).eval()


@cache
def reference(config: str, *overrides: str) -> tuple[nn.Module, set[str]]:
    """The model of a config on the meta device, and the names of its tensors that depend on the classes."""
    cfg = load_config(config, [*SMALL[config], *overrides])
    with torch.device("meta"):
        model = instantiate(cfg.model)
    return model, class_tensors(cfg.model, model)


def converted(kind: str, state: dict[str, Tensor], config: str, *overrides: str):
    """A foreign state dict of the family `kind` with the names of a config's model, and the report."""
    return convert(dict(state), FAMILIES[kind], FAMILIES, *reference(config, *overrides), source="file")


def plain(model: nn.Module) -> dict[str, Tensor]:
    """What a foreign detector has of a model: neither stem nor tuner."""
    return {n: t for n, t in model.state_dict().items() if n.split(".")[2:3] not in (["stem"], ["tuner"])}
