"""The segmentor on pairs: its batches, its ways to run on an image, and its part in the engine."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, SemanticSegmentor
from helpers.tiny import CLASSES, FEATURES, MEAN, STD, labeled, segmentor, swin
from torch import nn

from ivtuning.backbones.trunk import find_trunk
from ivtuning.checkpoint import load_weights, save_adapter
from ivtuning.checkpoint.adapter import adapter_tensors
from ivtuning.config import load_config
from ivtuning.engine.optim import param_groups
from ivtuning.engine.parameters import count_parameters
from ivtuning.errors import UserError
from ivtuning.heads.segmentation.fcn import FCN
from ivtuning.heads.segmentation.head import SemSegHead
from ivtuning.heads.segmentation.inference import MultiScaleFlip, SlidingWindow, WholeImage
from ivtuning.heads.segmentation.segmentor import PairedSemanticSegmentor
from ivtuning.necks.multi_scale import MultiScale


class Pixels(Backbone):
    """The image itself as a feature map."""

    def __init__(self, divisibility: int):
        super().__init__()
        self.divisibility = divisibility

    @property
    def size_divisibility(self) -> int:
        return self.divisibility

    def output_shape(self):
        return {"pixels": ShapeSpec(channels=6, stride=1)}

    def forward(self, x):
        return {"pixels": x}


def pointwise(divisibility=8, **kwargs) -> PairedSemanticSegmentor:
    """Classifies every pixel by its six values alone, in double precision."""
    torch.manual_seed(0)
    decoder = FCN("pixels", 6, CLASSES, convs=0, dropout=0.0)
    nn.init.normal_(decoder.classifier[-1].weight)
    model = PairedSemanticSegmentor(
        backbone=Pixels(divisibility),
        sem_seg_head=SemSegHead(decoder, CLASSES),
        pixel_mean=MEAN,
        pixel_std=STD,
        **kwargs,
    )
    return model.double().eval()


@torch.no_grad()
def predict(model, *batch):
    return [output["sem_seg"] for output in model.eval()(list(batch))]


# ---- batches ----


def model_inputs(model, batch):
    """What enters backbone and head in training."""
    entered = {}
    hooks = [
        model.backbone.register_forward_pre_hook(lambda _, args: entered.update(images=args[0])),
        model.sem_seg_head.register_forward_pre_hook(lambda _, args: entered.update(targets=args[1])),
    ]
    model.train()(batch)
    for hook in hooks:
        hook.remove()
    return entered["images"], entered["targets"]


@pytest.mark.parametrize("square_pad, size", [(0, (48, 64)), (80, (80, 80))])
def test_images_are_padded_with_the_mean_and_labels_with_ignore(square_pad, size):
    batch = [labeled(37, 53), labeled(41, 20, seed=1)]
    images, targets = model_inputs(segmentor(square_pad=square_pad), batch)
    assert images.shape == (2, 6, *size) and targets.shape == (2, *size) and targets.dtype == torch.int64
    for x, image, target in zip(batch, images, targets, strict=True):
        height, width = x["sem_seg"].shape
        pair = torch.cat([x["image"], x["image_ir"]]).float()
        expected = (pair - torch.tensor(MEAN).view(6, 1, 1)) / torch.tensor(STD).view(6, 1, 1)
        assert torch.equal(image[:, :height, :width], expected)
        assert not image[:, height:].any() and not image[:, :, width:].any()
        assert torch.equal(target[:height, :width], x["sem_seg"])
        assert (target[height:] == 255).all() and (target[:, width:] == 255).all()
        assert x["image"].shape[0] == 3  # the caller's


def test_padding_has_no_say_in_the_loss():
    batch, losses = [labeled(37, 53), labeled(20, 60, seed=1)], []
    for model in (pointwise(1), pointwise(64), pointwise(8, square_pad=100)):
        losses.append(model.train()([dict(x) for x in batch])["loss_sem_seg"])
    torch.testing.assert_close(losses, [losses[0]] * 3)


@pytest.mark.parametrize("trunk", FEATURES)
@pytest.mark.parametrize("sizes", [[(37, 53)], [(40, 64), (33, 49)]])
def test_any_size_trains_and_predicts(trunk, sizes):
    model = segmentor(trunk)
    batch = [labeled(*size, seed=i) for i, size in enumerate(sizes)]
    (name, loss), *rest = model.train()(batch).items()
    assert name == "loss_sem_seg" and not rest and loss.isfinite()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    maps = predict(model, *[{**x, "height": 70, "width": 31} for x in batch])
    assert [y.shape for y in maps] == [(CLASSES, 70, 31)] * len(batch)
    assert all(y.isfinite().all() and y.dtype == torch.float32 for y in maps)


class FullSize(SemSegHead):
    """A head for detectron2's segmentor, whose logits have the padded input's size."""

    def forward(self, features, targets=None):
        logits, losses = super().forward(features, targets)
        return (logits if logits is None else F.interpolate(logits, scale_factor=16, mode="bilinear")), losses


def test_agrees_with_detectron2s_segmentor():
    model = segmentor()
    model.sem_seg_head.__class__ = FullSize
    batch = [{**labeled(37, 53), "height": 74, "width": 100}, labeled(48, 30, seed=1)]
    with torch.no_grad():
        theirs = SemanticSegmentor.forward(model.eval(), model.stack_pairs(batch))
        ours = model(batch)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a["sem_seg"], b["sem_seg"])
        assert ours[0]["sem_seg"].shape == (CLASSES, 74, 100)
        model.training = model.sem_seg_head.training = True  # but no drop-path, no dropout
        assert model(batch) == SemanticSegmentor.forward(model, model.stack_pairs(batch))


def test_logits_are_cut_to_the_image_before_they_are_resized():
    model, x = pointwise(32), labeled(37, 53)
    (scores,) = predict(model, {**x, "height": 74, "width": 106})
    (small,) = predict(model, x)
    torch.testing.assert_close(scores, F.interpolate(small[None], size=(74, 106), mode="bilinear")[0])
    del x["height"], x["width"]
    assert torch.equal(predict(model, x)[0], small)


def test_both_images_matter():
    model, x = segmentor(), labeled()
    with torch.no_grad():
        for p in model.backbone.net.stem.parameters():  # they start as no prompt at all
            p.normal_(std=0.1)
    whole = predict(model, x)[0]
    for key in ("image", "image_ir"):
        assert not torch.allclose(predict(model, {**x, key: 255 - x[key]})[0], whole)


def test_wrong_labels_are_reported():
    model, x = segmentor().train(), labeled()
    with pytest.raises(UserError, match="vis/0.png has no 'sem_seg'"):
        model([x, {k: v for k, v in x.items() if k != "sem_seg"}])
    with pytest.raises(UserError, match=r"vis/0.png: labels are \(36, 53\), the image \(37, 53\)"):
        model([{**x, "sem_seg": x["sem_seg"][1:]}])


# ---- ways to run on an image ----


def written_out(network, image, window, stride):
    """mmsegmentation's slide_inference, as a sum over its grid."""
    height, width = image.shape[-2:]
    (h, w), (dy, dx) = window, stride
    total, count = torch.zeros(CLASSES, height, width), torch.zeros(height, width)
    for i in range(max(height - h + dy - 1, 0) // dy + 1):
        for j in range(max(width - w + dx - 1, 0) // dx + 1):
            bottom, right = min(i * dy + h, height), min(j * dx + w, width)
            top, left = max(bottom - h, 0), max(right - w, 0)
            total[:, top:bottom, left:right] += network([image[:, top:bottom, left:right]])[0]
            count[top:bottom, left:right] += 1
    return total / count


@pytest.mark.parametrize("size", [(37, 53), (16, 24), (10, 60), (60, 11), (5, 7), (32, 48)])
@pytest.mark.parametrize("window, stride", [((16, 24), (11, 16)), ((16, 24), (16, 24)), ((9, 9), (2, 9))])
def test_windows_are_those_of_mmsegmentation(size, window, stride):
    image = torch.rand(6, *size, generator=torch.Generator().manual_seed(0))

    def network(images):
        # Depends on where in its window a pixel is.
        ramp = torch.linspace(0, 1, images[0].shape[-1])
        return [x[:3] * ramp + x.sum() for x in images]

    (scores,) = SlidingWindow(window, stride)(network, [image], [size])
    torch.testing.assert_close(scores, written_out(network, image, window, stride))


@pytest.mark.parametrize("window, stride", [(16, 10), ((40, 16), (40, 5)), (64, 64)])
def test_windows_of_a_pointwise_model_change_nothing(window, stride):
    batch = [{**labeled(37, 53), "height": 50, "width": 60}, labeled(20, 61, seed=1)]
    whole = predict(pointwise(), *batch)
    torch.testing.assert_close(predict(pointwise(inference=SlidingWindow(window, stride)), *batch), whole)


def test_windows_of_an_image_are_one_batch():
    shapes = []
    model = segmentor(inference=SlidingWindow(32, 16))
    model.backbone.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    predict(model, labeled(37, 53), labeled(30, 40, seed=1))
    assert shapes == [(6, 6, 32, 32), (2, 6, 32, 32)]


@pytest.mark.parametrize(
    "inference",
    [
        MultiScaleFlip((1.0,)),
        MultiScaleFlip((1.0, 1.0), flip=False),
        MultiScaleFlip((1.0,), base=SlidingWindow(16, 10)),
    ],
)
def test_mirror_images_of_an_equivariant_model_change_nothing(inference):
    batch = [{**labeled(37, 53), "height": 50, "width": 60}, labeled(20, 61, seed=1)]
    whole = [logits.softmax(0) for logits in predict(pointwise(), *batch)]
    torch.testing.assert_close(predict(pointwise(inference=inference), *batch), whole)


def test_every_scale_and_mirror_image_is_averaged_as_probabilities():
    x = {**labeled(37, 53), "height": 74, "width": 106}
    model, expected = segmentor(), []
    pair = model.normalize([x])[0][None]
    for size in ((18, 26), (37, 53), (56, 80)):  # 18.5, 26.5, 55.5 and 79.5 are rounded
        scaled = F.interpolate(pair, size=size, mode="bilinear", antialias=True)
        padded = F.pad(scaled, (0, -size[1] % 16, 0, -size[0] % 16))
        mirrored = F.pad(scaled.flip(3), (0, -size[1] % 16, 0, -size[0] % 16))
        for image, back in ((padded, lambda y: y), (mirrored, lambda y: y.flip(3))):
            with torch.no_grad():
                logits = model.eval().sem_seg_head(model.backbone(image))[0]
            logits = F.interpolate(logits, size=image.shape[2:], mode="bilinear")[..., : size[0], : size[1]]
            logits = F.interpolate(logits, size=(74, 106), mode="bilinear")
            expected.append(back(logits.softmax(1))[0])
    model.inference = MultiScaleFlip((0.5, 1.0, 1.5))
    (scores,) = predict(model, x)
    torch.testing.assert_close(scores, torch.stack(expected).mean(0))
    torch.testing.assert_close(scores.sum(0), torch.ones(74, 106))
    assert not torch.allclose(expected[2], expected[3], atol=1e-3)


def test_tiny_scales_keep_a_pixel():
    model = pointwise(inference=MultiScaleFlip((0.01,)))
    (scores,) = predict(model, labeled(37, 53))
    assert scores.shape == (CLASSES, 37, 53) and scores.isfinite().all()


@pytest.mark.parametrize(
    "build, message",
    [
        (partial(SlidingWindow, 16, 17), "leaves gaps"),
        (partial(SlidingWindow, 512.5), "numbers of pixels"),
        (partial(SlidingWindow, (16, 32), (16, 33)), "leaves gaps"),
        (partial(SlidingWindow, 0, 0), "window=0: give one or two"),
        (partial(SlidingWindow, (1, 2, 3), 1), "window=.1, 2, 3.: give one or two"),
        (partial(SlidingWindow, 16, -1), "stride=-1: give one or two"),
        (partial(MultiScaleFlip, ()), "scales=.*give at least one"),
        (partial(MultiScaleFlip, (1.0, 0.0)), "scales=.*above 0"),
    ],
)
def test_wrong_options_are_reported(build, message):
    with pytest.raises(UserError, match=message):
        build()


def test_probabilities_of_several_scales_sum_to_one_under_autocast():
    """A softmax in bfloat16 misses 1 by more than what tells probabilities from logits."""
    images = [torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))]
    logits = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(1)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = MultiScaleFlip((1.0,))(lambda batch: [logits for _ in batch], images, [(16, 16)])
    assert found.dtype == torch.float32
    assert (found.sum(0) - 1).abs().max() < 1e-6


@pytest.mark.parametrize("inference", [WholeImage(), SlidingWindow(32, 20), MultiScaleFlip((0.5, 1.0))])
def test_half_precision_averages_in_float32_and_inference_mode_leaves_training_alone(inference):
    model, x = segmentor(inference=inference).eval(), labeled()
    with torch.inference_mode():
        whole = model([x])[0]["sem_seg"]
        with torch.autocast("cpu", torch.bfloat16):
            half = model([x])[0]["sem_seg"]
    assert half.dtype == torch.float32 and not torch.equal(half, whole)
    torch.testing.assert_close(half, whole, rtol=0.1, atol=0.1 * float(whole.abs().max()))
    model.train()([x])["loss_sem_seg"].backward()


# ---- in the engine ----


def test_multi_scale_is_the_trunk_and_nothing_else():
    model = segmentor()
    backbone, place = model.backbone, "backbone.net"
    assert MultiScale(swin()).size_divisibility == 32 and backbone.size_divisibility == 16
    assert {n: (s.channels, s.stride) for n, s in backbone.output_shape().items()} == {
        "p0": (8, 4),
        "p1": (16, 8),
        "p2": (32, 16),
    }
    x = torch.rand(1, 6, 32, 48)
    with torch.no_grad():
        for name, maps in backbone.eval()(x).items():
            assert torch.equal(maps, backbone.net(x)[name])
    assert find_trunk(model) == (place, backbone.net)
    groups = count_parameters(model)["groups"]
    assert groups["neck"] == {"total": 0, "trained": 0} and groups["heads"]["trained"] == 33 * CLASSES
    assert groups["trunk"]["trained"] == 0 < groups["tuner"]["trained"]


def test_optimizer_knows_tuner_from_head():
    model = segmentor()
    rates = {id(p): g["lr"] for g in param_groups(model, 1.0, 0.1, added_lr_factor=3.0) for p in g["params"]}
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert rates[id(p)] == (1.0 if name.startswith("sem_seg_head.") else 3.0), name


def test_adapter_file_carries_tuner_and_head(tmp_path):
    model, other = segmentor(), segmentor()
    head = {"sem_seg_head.decoder.classifier.1.weight", "sem_seg_head.decoder.classifier.1.bias"}
    assert set(adapter_tensors(model)["task"]) == head
    torch.save({"model": model.state_dict()}, tmp_path / "base.pth")
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1)
    save_adapter(model, tmp_path / "a.safetensors")
    x = labeled()
    assert not torch.allclose(predict(model, x)[0], predict(other, x)[0])
    load_weights(other, tmp_path / "base.pth", tmp_path / "a.safetensors")
    assert torch.equal(predict(model, x)[0], predict(other, x)[0])


CONFIG = """
from detectron2.config import LazyCall as L
from ivtuning.necks.multi_scale import MultiScale
from ivtuning.tuning.stems import PromptStem
from ivtuning.backbones.vit import PlainViT
from ivtuning.heads.segmentation.fcn import FCN
from ivtuning.heads.segmentation.head import SemSegHead
from ivtuning.heads.segmentation.inference import MultiScaleFlip, SlidingWindow
from ivtuning.heads.segmentation.segmentor import PairedSemanticSegmentor
from ivtuning.tuning import IVTuning

net = dict(img_size=48, patch_size=8, embed_dim=24, depth=2, num_heads=2, out_indices=[1])
model = L(PairedSemanticSegmentor)(
    backbone=L(MultiScale)(net=L(PlainViT)(stem=L(PromptStem)(), tuner=L(IVTuning)(hidden_dim=8), **net)),
    sem_seg_head=L(SemSegHead)(
        decoder=L(FCN)(in_feature="block1", in_channels=24, num_classes="${..num_classes}", convs=0),
        num_classes=9,
    ),
    inference=L(MultiScaleFlip)(scales=[0.5, 1.0], base=L(SlidingWindow)(window=[32, 48], stride=32)),
    pixel_mean=[120.0] * 6,
    pixel_std=[60.0] * 6,
)
"""


def test_builds_from_a_config_and_takes_keys_on_the_command_line(tmp_path):
    (tmp_path / "c.py").write_text(CONFIG)
    keys = ["model.fill_missing=mean", "model.inference.flip=False", "model.inference.base.stride=16"]
    model = instantiate(load_config(tmp_path / "c.py", keys).model)
    assert (
        model.inference.base.stride == (16, 16) and not model.inference.flip and model.fill_missing == "mean"
    )
    del (x := labeled())["image_ir"]
    assert predict(model, x)[0].shape == (9, 37, 53)
    with pytest.raises(UserError, match="no 'flips'; did you mean 'flip'"):
        load_config(tmp_path / "c.py", ["model.inference.flips=False"])


def test_inference_is_configured_on_the_command_line(tmp_path):
    (tmp_path / "c.py").write_text("\n".join(x for x in CONFIG.split("\n") if "inference=" not in x))
    target = "ivtuning.heads.segmentation.inference.SlidingWindow"
    key = f"model.inference={{_target_: {target}, window: 32, stride: 16}}"
    model = instantiate(load_config(tmp_path / "c.py", [key]).model)
    assert model.inference.window == (32, 32)
    assert isinstance(instantiate(load_config(tmp_path / "c.py").model).inference, WholeImage)


def test_inference_is_chosen_by_name_on_the_command_line():
    file = "configs/MSRS/segformer_ivtuning_swin_l.py"
    for overrides in (
        ["model.inference.stride=256", "model.inference=SlidingWindow"],
        ["model.inference=SlidingWindow", "model.inference.stride=256"],
    ):
        mode = instantiate(load_config(file, overrides).model.inference)
        assert isinstance(mode, SlidingWindow) and mode.window == (512, 512) and mode.stride == (256, 256)
    with pytest.raises(UserError, match="MultiScaleFlip"):
        load_config(file, ["model.inference=MultiScale"])
