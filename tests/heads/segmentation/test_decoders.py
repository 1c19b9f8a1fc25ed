"""Decoders: reference values, parameter counts, shapes, norms, and that they learn."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from helpers.decoders import BLOCKS, DECODERS, STAGES, WIDTHS, block_maps, decoder, features, pyramid
from helpers.golden import fill, sums
from torch import nn

from ivtuning.backbones.swin import SWIN_SIZES, Swin
from ivtuning.heads.segmentation.fcn import FCN
from ivtuning.heads.segmentation.head import SemSegHead
from ivtuning.heads.segmentation.segformer import SegFormer
from ivtuning.heads.segmentation.setr import SETRMLA, SETRPUP, MLANeck
from ivtuning.heads.segmentation.upernet import UPerNet
from ivtuning.tuning import Full
from ivtuning.tuning.stems import VisibleOnly

# --- against mmsegmentation 1.2.2, whose modules gave these figures with the same weights and inputs
# (its SegformerHead with linear level layers, its SETRMLAHead with a 3x3 classifier; see the docstrings).
GOLDEN = {
    "UPerNet": (-900.791183, 908.492424, 40.5573408),
    "SegFormer": (500.378963, 1152.39752, 67.2593926),
    "FCN": (63.7216467, 73.5348732, 3.82686321),
    "SETRPUP": (1080.4576, 4888.02849, 235.261989),
    "auxiliary": (266.091216, 278.565149, 14.4690011),
    "SETRMLA": (-218.566071, 266.863586, 11.9164816),
}
NORMS = ("norm.weight", *(f"norms.{i}.weight" for i in range(4)))


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name):
    if name == "SETRMLA":
        module = SETRMLA(BLOCKS, 7, 32, 16, "BN")
    else:
        module = decoder(name, channels=16 if name == "FCN" else 32)
    # The reference has SETR-PUP's LayerNorm before its convolutions.
    names = sorted((n for n, _ in module.named_parameters()), key=lambda n: not n.startswith("norm."))
    fill(module, names, ones=NORMS)
    maps = features(name) if name != "auxiliary" else {"block1": block_maps()["block3"]}
    if name == "SETRMLA":
        neck = MLANeck(BLOCKS, [24] * 4, 32, "BN").eval()
        fill(neck, [n for n, _ in neck.named_parameters()], ones=NORMS)
        maps = neck(maps)
        assert sums(maps["block0"]) == pytest.approx([267.899535, 267.899535, 114.376959], rel=1e-5)
        assert sums(maps["block3"]) == pytest.approx([77.3253984, 77.3253984, 9.61331825], rel=1e-5)
    assert sums(module.eval()(maps)) == pytest.approx(GOLDEN[name], rel=1e-5)


# --- parameter counts, from the layers of the papers
def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def conv(inputs: int, outputs: int, side: int) -> int:
    """A convolution without bias and its norm's scale and shift."""
    return inputs * outputs * side**2 + 2 * outputs


def linear(inputs: int, outputs: int, side: int = 1) -> int:
    return inputs * outputs * side**2 + outputs


SWIN_L, VIT_L = [192, 384, 768, 1536], [1024] * 4


@pytest.mark.parametrize(
    ("classes", "upernet", "fcn"), [(9, 36_880_905, 1_772_297), (150, 36_953_238, 1_808_534)]
)
def test_parameters_of_upernet(classes, upernet, fcn):
    with torch.device("meta"):
        built = count(UPerNet(STAGES, SWIN_L, classes)), count(FCN("p2", 768, classes))
    pooling = 4 * conv(1536, 512, 1) + conv(1536 + 4 * 512, 512, 3)
    pyramid = sum(conv(c, 512, 1) + conv(512, 512, 3) for c in SWIN_L[:3]) + conv(4 * 512, 512, 3)
    assert built[0] == pooling + pyramid + linear(512, classes) == upernet
    assert built[1] == conv(768, 256, 3) + linear(256, classes) == fcn


@pytest.mark.parametrize(
    ("size", "millions"), [("swin_t", 60), ("swin_s", 81), ("swin_b", 121), ("swin_l", 234)]
)
def test_swin_with_upernet_has_the_published_size(size, millions):
    """Of the table in Swin's own repository: UPerNet with its auxiliary head on ADE20K's 150 classes."""
    with torch.device("meta"):
        trunk = Swin(VisibleOnly(), Full(), **SWIN_SIZES[size])
        widths = [shape.channels for shape in trunk.output_shape().values()]
        parts = trunk, UPerNet(STAGES, widths, 150), FCN("p2", widths[2], 150)
    assert round(sum(map(count, parts)) / 1e6) == millions


@pytest.mark.parametrize(
    ("widths", "channels", "classes", "expected"),
    [
        ([32, 64, 160, 256], 256, 150, 433_302),  # B0: the paper's 0.4 M
        ([64, 128, 320, 512], 256, 150, 564_374),  # B1: 0.6 M
        ([64, 128, 320, 512], 768, 150, 3_265_686),  # B2 to B5: 3.3 M
        (SWIN_L, 768, 9, 4_582_665),
        (VIT_L, 768, 9, 5_516_553),
        (VIT_L, 256, 9, 1_314_569),
    ],
)
def test_parameters_of_segformer(widths, channels, classes, expected):
    with torch.device("meta"):
        built = count(SegFormer(STAGES, widths, classes, channels))
    fusion = conv(4 * channels, channels, 1) + linear(channels, classes)
    assert built == sum(linear(c, channels) for c in widths) + fusion == expected


@pytest.mark.parametrize(
    ("classes", "pup", "auxiliary", "mla"),
    [(9, 4_135_177, 2_364_169, 1_813_001), (150, 4_171_414, 2_400_406, 2_462_870)],
)
def test_parameters_of_setr(classes, pup, auxiliary, mla):
    with torch.device("meta"):
        built = [
            SETRPUP("block23", 1024, classes),
            SETRPUP("block9", 1024, classes, convs=1, scale=4),
            MLANeck(BLOCKS, VIT_L),
            SETRMLA(BLOCKS, classes),
            FCN("block9", 256, classes, convs=0),
        ]
    norm = 2 * 1024
    assert [count(m) for m in built] == [
        norm + conv(1024, 256, 3) + 3 * conv(256, 256, 3) + linear(256, classes),
        norm + conv(1024, 256, 3) + linear(256, classes),
        4 * (norm + conv(1024, 256, 1) + conv(256, 256, 3)),
        4 * (conv(256, 128, 3) + conv(128, 128, 3)) + linear(4 * 128, classes, 3),
        linear(256, classes),
    ]
    assert [count(m) for m in built[:4]] == [pup, auxiliary, 3_420_160, mla]


# --- sizes, classes, initialization
@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("classes", [1, 150])
def test_odd_sizes_and_any_number_of_classes(name, classes):
    module = decoder(name, classes).eval()
    for height, width in ((5, 7), (1, 1)):
        height, width = (
            (height * 7, width * 7) if name in ("UPerNet", "SegFormer", "FCN") else (height, width)
        )
        logits = module(features(name, 1, height=height, width=width))
        scale = {"SETRPUP": 16, "auxiliary": 4, "SETRMLA": 4}.get(name, 1)
        size = (-(-height // 4), -(-width // 4)) if name == "FCN" else (height * scale, width * scale)
        assert logits.shape == (1, classes, *size)


def test_segformer_resizes_to_the_largest_map_wherever_it_stands():
    maps = pyramid(1)
    a, b = SegFormer(STAGES, WIDTHS, 3, 32), SegFormer(STAGES[::-1], WIDTHS[::-1], 3, 32)
    assert a(maps).shape == b(maps).shape == (1, 3, 37, 50)


@pytest.mark.parametrize("name", DECODERS)
def test_initialization(name):
    module = decoder(name, classes=150)
    classifier = [m for n, m in module.named_modules() if n.endswith("classifier.1")][0]
    assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.05) and not classifier.bias.any()
    blocks = [m for m in module.modules() if getattr(m, "norm", None) is not None and hasattr(m, "stride")]
    assert blocks or not any(isinstance(m, Conv2d) for m in module.modules())  # a linear decoder has none
    for m in blocks:
        fan_out = m.out_channels * m.kernel_size[0] ** 2
        assert m.bias is None and m.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)


# --- normalization and batches of one image
@pytest.mark.parametrize("norm", ["BN", "SyncBN", "GN"])
@pytest.mark.parametrize("name", DECODERS)
def test_one_image_trains(name, norm):
    module = decoder(name, norm=norm, channels=64).train()
    maps = {n: x.requires_grad_() for n, x in features(name, 1).items()}
    module(maps).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.slow
def test_upernet_learns_from_single_images_what_it_then_predicts():
    torch.manual_seed(0)
    head = SemSegHead(decoder("UPerNet", classes=3), 3)
    optimizer = torch.optim.AdamW(head.parameters(), 3e-3)
    targets = torch.zeros(1, 32, 32, dtype=torch.long)
    targets[:, 8:, :16], targets[:, 8:, 16:] = 1, 2
    signal = F.one_hot(targets, 3).movedim(-1, 1).float()

    def batch() -> dict[str, torch.Tensor]:
        maps = {}
        for i, (name, width) in enumerate(zip(STAGES, WIDTHS, strict=True)):
            small = F.adaptive_avg_pool2d(signal, 32 // 2**i)
            maps[name] = torch.randn(1, width, *small.shape[-2:]) * 0.3
            maps[name][:, :3] += small
        return maps

    first = head(batch(), targets)[1]["loss_sem_seg"].item()
    for _ in range(60):
        loss = head(batch(), targets)[1]["loss_sem_seg"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < first / 3
    logits = head.eval()(batch())[0]
    assert (logits.argmax(1) == targets).float().mean() > 0.95
