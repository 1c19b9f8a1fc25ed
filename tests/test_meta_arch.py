"""How pairs become the model's input."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.utils.events import EventStorage
from helpers.tiny import detector, sample

from ivtuning.errors import UserError
from ivtuning.meta_arch import stack_pair


def test_pair_is_stacked_normalized_and_padded_and_the_caller_keeps_its_dict():
    model = detector()
    x = sample(40, 60)
    images = model.preprocess_image(model.stack_pairs([x]))
    assert images.tensor.shape == (1, 6, 48, 64) and images.image_sizes == [(40, 60)]
    expected = (x["image_ir"].float() - 108.375) / 51.0
    assert torch.allclose(images.tensor[0, 3:, :40, :60], expected)
    assert images.tensor[0, :, 40:].abs().sum() == 0
    assert x["image"].shape == (3, 40, 60)


def test_images_go_to_the_device_as_bytes_and_without_waiting(monkeypatch):
    model, moved, to = detector(), [], torch.Tensor.to

    def spy(tensor, *args, **kwargs):
        moved.append((tensor.dtype, tuple(tensor.shape), kwargs.get("non_blocking")))
        return to(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", spy)
    model.preprocess_image([sample(40, 60)])
    images = [move for move in moved if move[1] == (3, 40, 60)][:2]
    assert images == [(torch.uint8, (3, 40, 60), True)] * 2


def test_a_pair_is_stacked_on_the_device():
    stacked = stack_pair(sample(40, 60), 6, device="meta")["image"]
    assert stacked.device.type == "meta" and stacked.dtype == torch.uint8 and stacked.shape == (6, 40, 60)


def test_square_pad_never_crops():
    model = detector("model.square_pad=64")
    assert model.preprocess_image(model.stack_pairs([sample(40, 60)])).tensor.shape[-2:] == (64, 64)
    assert model.preprocess_image(model.stack_pairs([sample(40, 90)])).tensor.shape[-2:] == (96, 96)


def test_a_batch_is_what_detectron2_would_make_of_it():
    model, batch = detector(), [sample(40, 60), sample(64, 33, seed=1)]
    ours = model.preprocess_image(batch)
    theirs = GeneralizedRCNN.preprocess_image(model, model.stack_pairs(batch))
    assert torch.equal(ours.tensor, theirs.tensor) and ours.image_sizes == theirs.image_sizes
    assert all(x["image"].shape[0] == 3 for x in batch)


def test_labels_are_padded_as_images_are():
    model = detector("model.square_pad=80")
    labels = [torch.ones(40, 60, dtype=torch.int64), torch.ones(50, 20, dtype=torch.int64)]
    padded = model.pad(labels, 255)
    assert padded.tensor.shape == (2, 80, 80) and padded.tensor.dtype == torch.int64
    assert padded.image_sizes == [(40, 60), (50, 20)]
    for target, label in zip(padded.tensor, labels, strict=True):
        height, width = label.shape
        assert (target == 1).sum() == height * width == (target[:height, :width] == 1).sum()
        assert (target == 255).sum() == 80 * 80 - height * width


def test_losses_and_predictions():
    model = detector()
    with EventStorage():
        losses = model.train()([sample(seed=0), sample(48, 80, seed=1)])
    assert all(loss.isfinite() for loss in losses.values()) and len(losses) == 4
    with torch.no_grad():
        (output,) = model.eval()([sample()])
    assert output["instances"].image_size == (64, 96)


def test_infrared_changes_the_prediction():
    model = detector("model.backbone.net.stem=InfraredOnly", "model.backbone.net.tuner=Frozen").eval()
    a = sample()
    b = {**a, "image_ir": 255 - a["image_ir"]}
    with torch.no_grad():
        features = [
            model.backbone(model.preprocess_image(model.stack_pairs([x])).tensor)["p3"] for x in (a, b)
        ]
    assert not torch.allclose(*features)


def test_three_channel_model_takes_the_visible_image_alone():
    model = detector(
        *("model.pixel_mean=[1,2,3]", "model.pixel_std=[1,1,1]"),
        *("model.backbone.net.stem=VisibleOnly", "model.backbone.net.tuner=Mona"),
    ).eval()
    x = sample()
    del x["image_ir"]
    with torch.no_grad():
        assert len(model([x])) == 1


def test_a_visible_image_of_none_is_missing():
    model = detector("model.fill_missing=mean").eval()
    x = sample()
    lacking = {key: value for key, value in x.items() if key != "image"}
    with torch.no_grad():
        (one,), (other,) = (model([y]) for y in (lacking, {**lacking, "image": None}))
    assert torch.equal(one["instances"].scores, other["instances"].scores)


def test_training_pictures_see_three_channels():
    model = detector("model.vis_period=1").train()
    with EventStorage() as storage:
        model([sample()])
    assert storage._vis_data[0][1].shape[0] == 3


def test_training_pictures_of_a_pair_without_a_visible_image_are_black():
    model = detector("model.vis_period=1", "model.fill_missing=mean").train()
    x = sample()
    del x["image"]
    with EventStorage() as storage:
        model([x])
    picture = storage._vis_data[0][1]
    assert picture.shape[0] == 3 and (picture == 0).mean() > 0.5


def test_missing_or_unequal_infrared_is_reported():
    x = sample()
    with pytest.raises(UserError, match="vis/0.png.*no 'image_ir'"):
        stack_pair({k: v for k, v in x.items() if k != "image_ir"}, 6)
    with pytest.raises(UserError, match="vis/0.png.*one frame"):
        stack_pair({**x, "image_ir": x["image_ir"][:, 1:]}, 6)
