"""State dicts in the layouts of other projects, and what compares them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import nn

from ivtuning.backbones.vit import PlainViT, ViTDet
from ivtuning.necks.feature_pyramid import SimpleFeaturePyramid
from ivtuning.tuning import TUNERS, IVTuning
from ivtuning.tuning.stems import STEMS

SIZE = dict(embed_dim=32, depth=2, num_heads=2)


def vitdet(stem="PromptStem", tuner="IVTuning", **options):
    """A trunk of 2 blocks, 32 wide, with position tables of 64 px images and pos_embed of 4x4 patches."""
    tuner = IVTuning(hidden_dim=8) if tuner == "IVTuning" else TUNERS[tuner]()
    options = dict(img_size=64, pretrain_img_size=64, window_size=2, global_blocks=(1,), **SIZE) | options
    return ViTDet(STEMS[stem](), tuner, **options)


def plain(stem="VisibleOnly", tuner="Frozen", **options):
    options = dict(img_size=64, out_indices=(1,), **SIZE) | options
    return PlainViT(STEMS[stem](), TUNERS[tuner](), **options)


class Detector(nn.Module):
    """A trunk, a neck, and class layers, named as detectron2 names them."""

    def __init__(self, net=None, classes=3):
        super().__init__()
        self.backbone = SimpleFeaturePyramid(net or vitdet(), out_channels=8, scale_factors=(1.0,))
        predictor = nn.ModuleDict(
            {"cls_score": nn.Linear(8, classes + 1), "bbox_pred": nn.Linear(8, 4 * classes)}
        )
        self.roi_heads = nn.ModuleDict({"norm": nn.BatchNorm1d(8), "box_predictor": predictor})
        self.register_buffer("pixel_mean", torch.zeros(6, 1, 1), persistent=False)

    def forward(self, x):
        y = self.roi_heads["norm"](self.backbone(x - self.pixel_mean)["p4"].mean((2, 3)))
        return torch.cat([layer(y) for layer in self.roi_heads["box_predictor"].values()], 1)


@torch.no_grad()
def randomize(module, seed=0):
    """Random parameters and buffers, so that nothing is zero or equal by its initialization."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.1 + 0.05)
    return module


def base_of(trunk):
    return {n: t.clone() for n, t in trunk.state_dict().items() if n.split(".")[0] not in ("stem", "tuner")}


def snapshot(module):
    return {n: t.clone() for n, t in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def timm_vit(**options):
    vit = VisionTransformer(**{**dict(img_size=64, patch_size=16, num_classes=5), **SIZE, **options})
    return randomize(vit, 1).eval()


def mae_state():
    """What mae_pretrain_vit_*.pth holds: no classifier, the norm before it, no relative positions."""
    return {n: t for n, t in timm_vit().state_dict().items() if not n.startswith("head")}


def sam_state():
    """segment-anything's names, from timm's port of them."""
    sam = randomize(VisionTransformerSAM(
        img_size=64, patch_size=16, num_classes=0, window_size=2, global_attn_indexes=(1,), use_abs_pos=True,
        use_rel_pos=True, neck_chans=8, **SIZE,
    ))  # fmt: skip
    state = {f"image_encoder.{n}": t for n, t in sam.state_dict().items()}
    state = {n.replace("mlp.fc", "mlp.lin"): t for n, t in state.items()}
    return state | {
        "prompt_encoder.no_mask_embed.weight": torch.zeros(1, 8),
        "mask_decoder.x": torch.zeros(1),
    }


def save(path, state):
    torch.save(state, path)
    return path


def mmdet_state(state):
    """The official state under mmdet's names; its merging takes nn.Unfold's order of the four patches."""
    new = {}
    for name, tensor in state.items():
        if ".downsample." in name:
            c = tensor.shape[-1] // 4
            # Indices by column, row and channel: the order of the official concatenation.
            patch = torch.arange(4 * c).view(2, 2, c)
            order = F.unfold(patch.permute(2, 1, 0)[None].float(), 2, stride=2)[0, :, 0].long()
            tensor = tensor[..., order]
        for ours, theirs in {
            "patch_embed.proj.": "patch_embed.projection.",
            "layers.": "stages.",
            ".attn.": ".attn.w_msa.",
            ".mlp.fc1.": ".ffn.layers.0.0.",
            ".mlp.fc2.": ".ffn.layers.1.",
        }.items():
            name = name.replace(ours, theirs)
        new[f"backbone.{name}"] = tensor
    return new
