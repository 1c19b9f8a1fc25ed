"""The segmentation head: its losses, its auxiliary decoders, its config, and detectron2's own segmentor."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.modeling import SemanticSegmentor
from helpers.decoders import BLOCKS, DECODERS, STAGES, WIDTHS, block_maps, decoder, features, pyramid
from helpers.tiny import swin
from omegaconf import DictConfig

from ivtuning.data.labels import IGNORE
from ivtuning.errors import UserError
from ivtuning.heads.segmentation.fcn import FCN
from ivtuning.heads.segmentation.head import SemSegHead
from ivtuning.heads.segmentation.losses import CrossEntropy, Dice, Sum
from ivtuning.heads.segmentation.setr import SETRMLA, MLANeck
from ivtuning.heads.segmentation.upernet import UPerNet
from ivtuning.tuning import Full
from ivtuning.tuning.stems import VisibleOnly


def head(name: str = "UPerNet", classes: int = 7, **kwargs) -> SemSegHead:
    still = dict(dropout=0.0) if name in ("UPerNet", "SegFormer", "FCN") else {}
    return SemSegHead(decoder(name, classes, **still), classes, **kwargs)


def labels(classes: int = 7, images: int = 2, size=(147, 199)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    targets = torch.randint(0, classes, (images, *size), generator=generator)
    return targets.masked_fill(torch.rand(targets.shape, generator=generator) < 0.2, IGNORE)


def test_training_gives_losses_and_evaluation_logits():
    auxiliary = [decoder("FCN", dropout=0.0), decoder("SegFormer", dropout=0.0)]
    model, maps, targets = head(auxiliary=auxiliary), pyramid(), labels()
    reference = copy.deepcopy(model)
    logits, losses = model(maps, targets)
    assert logits is None and list(losses) == ["loss_sem_seg", "loss_sem_seg_aux0", "loss_sem_seg_aux1"]
    decoders = (reference.decoder, *reference.auxiliary)
    for module, weight, loss in zip(decoders, (1, 0.4, 0.4), losses.values(), strict=True):
        resized = F.interpolate(module(maps), targets.shape[1:], mode="bilinear", align_corners=False)
        torch.testing.assert_close(loss, weight * F.cross_entropy(resized, targets, ignore_index=IGNORE))

    for module in model.eval().auxiliary:
        module.register_forward_hook(lambda *_: pytest.fail("an auxiliary decoder ran in evaluation"))
    logits, losses = model(maps)
    assert losses == {} and torch.equal(logits, model.decoder(maps)) and logits.shape == (2, 7, 37, 50)


def test_neck_serves_all_decoders():
    neck = MLANeck(BLOCKS, [24] * 4, 32, "BN")
    decoders = [SETRMLA(BLOCKS, 7, 32, 32, "BN"), *(FCN(t, 32, 7, convs=0) for t in BLOCKS)]
    model = SemSegHead(decoders[0], 7, auxiliary=decoders[1:], neck=neck)
    losses = model(block_maps(), labels(size=(80, 112)))[1]
    assert len(losses) == 5
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    model.eval()
    assert torch.equal(model(block_maps())[0], decoders[0](neck(block_maps())))


@pytest.mark.parametrize("loss", [None, Sum([CrossEntropy(), Dice()])])
def test_a_batch_without_labels_trains_nothing(loss):
    model = head(loss=loss, auxiliary=[decoder("FCN")])
    losses = model(pyramid(), torch.full((2, 147, 199), IGNORE))[1]
    sum(losses.values()).backward()
    assert all(x == 0 for x in losses.values())
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "half"),
    [(name, torch.bfloat16) for name in DECODERS] + [(name, torch.float16) for name in ("FCN", "SegFormer")],
)
def test_autocast_leaves_the_loss_in_float32(name, half):
    model, maps, targets = head(name), features(name), labels(size=(80, 112))
    plain = copy.deepcopy(model)(maps, targets)[1]["loss_sem_seg"]
    with torch.autocast("cpu", half):
        loss = model(maps, targets)[1]["loss_sem_seg"]
    loss.backward()
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(plain.item(), rel=0.02)
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_another_ignored_value_is_translated():
    targets = labels()
    expected = head()(pyramid(), targets)[1]["loss_sem_seg"]
    other = head(ignore_value=-1)(pyramid(), targets.masked_fill(targets == IGNORE, -1))[1]["loss_sem_seg"]
    assert other == expected


def test_one_class_trains_and_warns(caplog):
    with caplog.at_level(logging.WARNING):
        model = head("FCN", classes=1)
    assert "add a class for the rest" in caplog.text
    targets = labels(1)
    loss = model(pyramid(), targets)[1]["loss_sem_seg"]
    loss.backward()
    assert loss > 0 and model.decoder.classifier[1].bias.grad < 0  # toward the class
    assert (model.eval()(pyramid())[0].argmax(1) == 0).all()


def test_bad_input_is_reported():
    model = head()
    with pytest.raises(UserError, match="label 7, which is not one of the model's 7 classes"):
        model.check(labels(8), "a.png")
    with pytest.raises(UserError, match="training needs labels"):
        model(pyramid())
    maps = pyramid()
    maps["p4"] = maps.pop("p3")
    with pytest.raises(UserError, match="UPerNet reads 'p3', the backbone gives p0, p1, p2, p4"):
        model(maps, labels())
    with pytest.raises(UserError, match="'p0' has 16 channels, not 8"):
        model({**pyramid(), "p0": pyramid()["p1"]}, labels())
    with pytest.raises(UserError, match="MLANeck reads 'block9'"):
        MLANeck(["block9"], [24])(block_maps())
    with pytest.raises(UserError, match="FCN has 3 classes, the head 7"):
        head(auxiliary=[decoder("FCN", 3)])
    with pytest.raises(UserError, match="num_classes=0"):
        decoder("FCN", 0)
    with pytest.raises(UserError, match="4 in_features and 3 in_channels"):
        UPerNet(STAGES, WIDTHS[:3], 7)
    with pytest.raises(UserError, match="4 in_features and 1 in_channels"):
        MLANeck(BLOCKS, [24])
    with pytest.raises(UserError, match="did you mean 'SyncBN'"):
        decoder("FCN", norm="syncBN")
    with pytest.raises(UserError, match="64, 96, ... channels, not 32"):
        FCN("p2", 32, 7, channels=32, norm="GN")


# --- as a config and in detectron2's meta-architecture
def test_config():
    maps = dict(in_features=STAGES, in_channels=WIDTHS)
    config = L(SemSegHead)(
        num_classes=5,
        decoder=L(UPerNet)(**maps, num_classes="${..num_classes}", channels=32),
        auxiliary=[
            L(FCN)(in_feature="p2", in_channels=32, channels=32, num_classes="${...num_classes}"),
        ],
        loss=L(Sum)(losses=[L(CrossEntropy)(class_weights=[1, 1, 1, 1, 2]), L(Dice)()], weights=[1, 0.5]),
    )
    cfg = DictConfig(dict(model=dict(sem_seg_head=config)), flags={"allow_objects": True})
    cfg.model.sem_seg_head.num_classes = 4
    cfg.model.sem_seg_head.loss.losses[0].class_weights = [1, 1, 1, 2]
    model = instantiate(cfg.model.sem_seg_head)
    assert model.decoder.num_classes == model.auxiliary[0].num_classes == 4
    losses = model(pyramid(), labels(4))[1]
    assert set(losses) == {"loss_sem_seg", "loss_sem_seg_aux0"} and all(x > 0 for x in losses.values())


def test_in_detectron2s_segmentor():
    torch.manual_seed(0)
    net = swin(VisibleOnly(), Full())
    names, widths = zip(*((n, s.channels) for n, s in net.output_shape().items()), strict=True)
    model = SemanticSegmentor(
        backbone=net,
        sem_seg_head=SemSegHead(
            UPerNet(names, widths, 3, 32), 3, auxiliary=[FCN(names[1], widths[1], 3, 32)]
        ),
        pixel_mean=[120.0] * 3,
        pixel_std=[60.0] * 3,
    )
    image = torch.randint(0, 256, (3, 45, 61), dtype=torch.uint8)
    sample = dict(image=image, sem_seg=labels(3, 1, (45, 61))[0], height=90, width=122)
    losses = model([sample])
    assert set(losses) == {"loss_sem_seg", "loss_sem_seg_aux0"}
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    with torch.no_grad():
        assert model.eval()([sample])[0]["sem_seg"].shape == (3, 90, 122)
