"""Batches between processes."""

from __future__ import annotations

import pickle

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from torch import nn

from ivtuning.data.loaders.transport import pack, unpack


def objects():
    instances = Instances((4, 5))
    instances.gt_boxes = Boxes(torch.rand(3, 4))
    instances.gt_classes = torch.arange(3)
    instances.gt_masks = BitMasks(torch.rand(3, 4, 5) > 0.5)
    return instances


def test_everything_arrives_as_it_was():
    instances = objects()
    sent = {
        "image": torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8),  # 105 bytes: what follows needs a gap
        "turned": torch.rand(4, 6, dtype=torch.float64).t(),
        "none": torch.zeros(0, 4),
        "one": torch.tensor(7),
        "name": "a.png",
        "instances": instances,
    }
    received = unpack(pack([sent, None]))
    assert received[1] is None and list(received[0]) == list(sent) and received[0]["name"] == "a.png"
    for key in ("image", "turned", "none", "one"):
        assert torch.equal(received[0][key], sent[key]) and received[0][key].dtype == sent[key].dtype
        assert received[0][key].is_contiguous()
    arrived = received[0]["instances"]
    assert arrived.image_size == (4, 5)
    assert torch.equal(arrived.gt_boxes.tensor, instances.gt_boxes.tensor)
    assert torch.equal(arrived.gt_classes, instances.gt_classes)
    assert torch.equal(arrived.gt_masks.tensor, instances.gt_masks.tensor)


def test_tensors_travel_in_one_shared_block_and_do_not_overlap():
    packed = pack([{"image": torch.full((3, 50, 50), i, dtype=torch.uint8)} for i in range(3)])
    assert packed.block.is_shared() and packed.block.dtype == torch.uint8
    assert 3 * 7500 <= packed.block.numel() < 3 * 7500 + 48
    assert len(packed.pickled) < 1000
    batch = unpack(packed)
    batch[1]["image"].zero_()
    assert [int(sample["image"].unique()) for sample in batch] == [0, 0, 2]


@pytest.mark.parametrize("value", [None, [], {"words": "alone"}])
def test_nothing_but_words(value):
    assert unpack(pack(value)) == value


def test_a_parameter_stays_one():
    received = unpack(pack(nn.Parameter(torch.ones(2))))
    assert isinstance(received, nn.Parameter) and received.requires_grad and received.tolist() == [1, 1]


def test_what_cannot_be_pickled_says_so():
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        pack(lambda: None)
