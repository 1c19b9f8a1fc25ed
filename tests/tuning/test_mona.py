"""Mona and its baselines against golden values and counts of the paper's released code."""

from __future__ import annotations

import pytest
import torch
from helpers.golden import fill, sums, wave
from torch import nn

from ivtuning.backbones.swin import SWIN_SIZES, Swin
from ivtuning.backbones.vit import PlainViT, ViTDet
from ivtuning.engine.parameters import count_parameters
from ivtuning.errors import UserError
from ivtuning.tuning import TUNERS, Adapter, AdaptFormer, BitFit, Full, LoRA, Mona, NormTuning
from ivtuning.tuning.adapter import Bottleneck
from ivtuning.tuning.lora import LowRank
from ivtuning.tuning.mona import MonaAdapter, MonaConv
from ivtuning.tuning.stems import VisibleOnly

WIDTHS = (128, 192, 256, 384, 512, 768, 1024, 1536)


def pairs(*layers: str) -> list[str]:
    return [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]


def mix(prefix: str = "") -> list[str]:
    return pairs(*(f"{prefix}depthwise.{i}" for i in range(3)), f"{prefix}pointwise")


def tokens() -> torch.Tensor:
    return wave(2, 35, 24).unflatten(1, (5, 7))


def close(*expected: float):
    return pytest.approx(list(expected), rel=1e-5, abs=5e-7)  # half of the last digit printed


def test_golden_mona():
    module = MonaAdapter(24, 64, (3, 5, 7), dropout=0.1).eval()
    order = ["gamma", "gammax", *pairs("down", "up"), *mix("mix."), *pairs("norm")]
    fill(module, order, ones=("gammax", "norm.weight"))
    assert sums(module(tokens())) == close(147.161188, 1188.462369, 1057.252542)


def test_golden_convolutions():
    module = MonaConv(64).eval()
    fill(module, mix())
    assert sums(module(wave(1, 64, 5, 7))) == close(116.696075, 1508.387524, 1327.093266)


def test_golden_adapter():
    module = Bottleneck(24, 64, dropout=0.1).eval()
    fill(module, pairs("down", "up"))
    x = tokens()
    assert sums(x + module(x)) == close(148.666766, 1184.119505, 1045.718682)


def test_golden_adaptformer():
    adapters = AdaptFormer().build_adapters(24).eval()
    fill(adapters.branch, pairs("down", "up"))
    x = tokens()
    assert sums(adapters.after_mlp(torch.zeros_like(x), x, x)) == close(2.092378, 6.486464, 0.037170)


def test_golden_lora():
    layer = nn.Linear(24, 72)
    layer.lora_A, layer.lora_B = nn.Parameter(torch.empty(8, 24)), nn.Parameter(torch.empty(48, 4))
    fill(layer, ["weight", "bias", "lora_A", "lora_B"])
    # The original keeps the halves of both targets in one tensor.
    for i, start in enumerate((0, 48)):
        update = LowRank(24, rank=4, scaling=1 / 4)
        update.lora_A.data, update.lora_B.data = layer.lora_A[4 * i :][:4], layer.lora_B[24 * i :][:24]
        update.rows = slice(start, start + 24)
        layer.register_forward_hook(update.hook)
    assert sums(layer(wave(2, 35, 24))) == close(9.993257, 603.979826, 110.552232)


def test_the_mean_of_kernels_is_the_mean_of_convolutions():
    torch.manual_seed(0)
    module, z = MonaConv(4, kernels=(1, 5, 3)).double(), torch.randn(2, 4, 6, 5, dtype=torch.float64)
    z1 = z + sum(convolution(z) for convolution in module.depthwise) / 3
    assert torch.allclose(module(z), z1 + module.pointwise(z1), atol=1e-12)


def test_mona_starts_as_the_released_code():
    torch.manual_seed(0)
    module = MonaAdapter(768, 64, (3, 5, 7), dropout=0.1).eval()
    assert (module.gamma == 1e-6).all() and (module.gammax == 1).all()
    stds = [p.weight.std().item() for p in (module.down, module.up, module.mix.depthwise[0])]
    assert stds == pytest.approx([0.0199, 0.0201, 0.193], rel=0.05)
    assert module.mix.pointwise.weight.std().item() == pytest.approx(0.072, rel=0.05)
    x = torch.randn(2, 14, 14, 768)
    assert ((module(x) - x).norm() / x.norm()).item() == pytest.approx(0.068, abs=0.004)


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("d", WIDTHS)
def test_closed_forms(d):
    with torch.device("meta"):
        assert size(MonaAdapter(d, 64, (3, 5, 7), 0.1)) == 133 * d + 9728
        assert size(Mona().build_adapters(d)) == 2 * (133 * d + 9728)
        assert size(Adapter().build_adapters(d)) == 2 * (129 * d + 64)
        assert size(AdaptFormer().build_adapters(d)) == 129 * d + 64
        lora = LoRA()
        lora.attach([d])
        assert size(lora) == 256 * d
        n = 16
        assert size(Mona(hidden_dim=n).build_adapters(d)) == 2 * ((2 * n + 5) * d + n * n + 88 * n)
        assert size(MonaConv(64, kernels=(7,))) == 64 * 64 + 64 * 51


VOC = dict(out_indices=(1, 2, 3))  # with a frozen patch embedding
CLASSIFICATION = dict(out_indices=(3,))
# On Swin-L with any outputs.
SWIN_L = dict(Partial=28_339_632, Adapter=4_659_456, LoRA=4_620_288, AdaptFormer=2_329_728, Mona=5_267_712)
COUNTS = {
    ("swin_b", ""): dict(
        base=86_745_016,
        Full=86_745_016,
        Frozen=0,
        BitFit=201_656,
        NormTuning=59_392,
        Partial=12_601_632,
        Adapter=3_107_328,
        LoRA=3_080_192,
        AdaptFormer=1_553_664,
        Mona=3_667_456,
    ),
    ("swin_t", ""): dict(
        base=27_520_698,
        Full=27_520_698,
        Frozen=0,
        BitFit=76_218,
        NormTuning=26_112,
        Partial=7_091_928,
        Adapter=1_140_864,
        LoRA=1_130_496,
        AdaptFormer=570_432,
        Mona=1_408_128,
    ),
    ("swin_l", ""): dict(
        base=194_998_164, Full=194_998_164, Frozen=0, BitFit=302_484, NormTuning=89_088, **SWIN_L
    ),
    ("swin_l", "VOC"): dict(base=194_997_780, Full=194_987_988, BitFit=301_908, NormTuning=88_320, **SWIN_L),
    ("swin_l", "classification"): dict(
        base=194_995_476, Full=194_995_476, BitFit=301_140, NormTuning=86_400, **SWIN_L
    ),
}


def trunk_counts(build) -> tuple[int, int]:
    with torch.device("meta"):
        counts = count_parameters(nn.ModuleDict({"net": build()}))
    return counts["backbone_trainable"], counts["backbone_base"]


@pytest.mark.parametrize(
    "trunk, task, method, trained, base",
    [(*key, m, n, row["base"]) for key, row in COUNTS.items() for m, n in row.items() if m != "base"],
)
def test_counts_of_the_paper_on_swin(trunk, task, method, trained, base):
    options = dict(freeze_embed=True) if task == "VOC" and method in ("Full", "BitFit", "NormTuning") else {}
    outputs = {"VOC": VOC, "classification": CLASSIFICATION}.get(task, {})
    build = lambda: Swin(VisibleOnly(), TUNERS[method](**options), **SWIN_SIZES[trunk], **outputs)  # noqa: E731
    assert trunk_counts(build) == (trained, base)


def test_bitfit_without_tables():
    build = lambda: Swin(VisibleOnly(), BitFit(rel_pos=False), **SWIN_SIZES["swin_b"])  # noqa: E731
    assert trunk_counts(build)[0] == 201_656 - 63_544


@pytest.mark.parametrize(
    "method, trained",
    [
        ("Mona", 12 * 2 * (133 * 768 + 9728)),
        ("Adapter", 12 * 2 * (129 * 768 + 64)),
        ("AdaptFormer", 12 * (129 * 768 + 64)),
        ("LoRA", 12 * 256 * 768),
        ("NormTuning", 12 * 4 * 768),
        ("BitFit", 768 + 12 * (3 + 1 + 2 + 4 + 1) * 768),  # embedding; qkv, proj, two norms, MLP of a block
    ],
)
def test_counts_on_vits(method, trained):
    for cls in (ViTDet, PlainViT):
        assert trunk_counts(lambda cls=cls: cls(VisibleOnly(), TUNERS[method]()))[0] == trained


def test_frozen_embedding_takes_its_norm_along():
    for tuner in (Full, NormTuning, BitFit):
        trunk = Swin(VisibleOnly(), tuner(freeze_embed=True), 8, (1, 1), (1, 1), 3, out_indices=(1,))
        assert not any(p.requires_grad for p in trunk.patch_embed.parameters())
        assert any(p.requires_grad for p in trunk.layers.parameters())


@pytest.mark.parametrize("kernels", [(3, 4), (), (0,)])
def test_kernels_are_checked(kernels):
    with pytest.raises(UserError, match="give odd sizes"):
        Mona(kernels=kernels).build_adapters(8)
