import itertools
import logging
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from detectron2.utils import comm
from PIL import Image
from torch.utils.data import get_worker_info

from ivtuning.data.image_files import BadPair
from ivtuning.data.loaders.train import build_train_loader
from ivtuning.data.mappers.copy_paste import CopyPaste
from ivtuning.data.mappers.pairs import PairedDatasetMapper
from ivtuning.data.transforms.photometric import Gain, GaussianNoise
from ivtuning.errors import UserError


def write_pairs(root, count):
    dataset = []
    for index in range(count):
        rng = np.random.RandomState(index)
        names = [str(root / f"{index}_{modality}.png") for modality in ("vis", "ir")]
        Image.fromarray(rng.randint(0, 256, (24, 32, 3), np.uint8)).save(names[0])
        Image.fromarray(rng.randint(0, 256, (24, 32), np.uint8)).save(names[1])
        box = {"bbox": [4, 4, 20, 16], "bbox_mode": BoxMode.XYXY_ABS, "category_id": index % 3}
        sizes = {"height": 24, "width": 32, "image_id": index}
        dataset.append({"file_name": names[0], "ir_file_name": names[1], **sizes, "annotations": [box]})
    return dataset


@pytest.fixture
def dataset(tmp_path):
    return write_pairs(tmp_path, 5)


@pytest.fixture
def mapper(dataset):
    augmentations = [T.RandomFlip(0.5), T.ResizeScale(0.5, 1.5, 32, 32), T.FixedSizeCrop((32, 32))]
    paired = PairedDatasetMapper(True, augmentations, [GaussianNoise(0.5)], [Gain(0.5)])
    return CopyPaste(paired, dataset, prob=0.3)


def test_oriented_boxes_cannot_be_pasted(dataset):
    oriented = PairedDatasetMapper(True, [T.RandomFlip(0.5)], oriented=True)
    with pytest.raises(UserError, match="copy_paste does not paste oriented boxes"):
        build_train_loader(dataset, oriented, 2, copy_paste={"prob": 0.3})


def draws(dataset_dict):
    """A mapper that shows the pair's index and one draw of each generator."""
    drawn = random.random(), np.random.rand(), torch.rand(1).item()
    return {"id": dataset_dict["image_id"], "draws": drawn}


TOY = [{"file_name": f"{i}.png", "image_id": i} for i in range(5)]


def take(loader, count):
    return list(itertools.islice(loader, count))


def ids(batches):
    return [[sample.get("id", sample.get("image_id")) for sample in batch] for batch in batches]


def assert_equal(first, second):
    assert len(first) == len(second) > 0
    for a, b in zip(itertools.chain(*first), itertools.chain(*second), strict=True):
        assert a["file_name"] == b["file_name"]
        assert torch.equal(a["image"], b["image"]) and torch.equal(a["image_ir"], b["image_ir"])
        assert torch.equal(a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor)
        assert torch.equal(a["instances"].gt_classes, b["instances"].gt_classes)


def test_resume_and_workers_change_nothing(dataset, mapper):
    whole = take(build_train_loader(dataset, mapper, 2, seed=3), 8)
    assert_equal(take(build_train_loader(dataset, mapper, 2, seed=3, start=3), 5), whole[3:])
    assert_equal(take(build_train_loader(dataset, mapper, 2, num_workers=2, seed=3), 8), whole)
    assert_equal(take(build_train_loader(dataset, mapper, 2, num_workers=2, seed=3, start=5), 3), whole[5:])


def test_workers_do_the_reading():
    def where(dataset_dict):
        info = get_worker_info()
        return {"id": -1 if info is None else info.id}

    assert ids(take(build_train_loader(TOY, where, 2, num_workers=2), 4)) == [[0, 0], [1, 1], [0, 0], [1, 1]]
    assert ids(take(build_train_loader(TOY, where, 2), 1)) == [[-1, -1]]


def test_a_workers_batch_comes_in_one_block(dataset):
    plain = PairedDatasetMapper(True)
    ((first, second),) = take(build_train_loader(dataset, plain, 2, num_workers=1), 1)
    assert first["image"].is_shared()
    blocks = {t.untyped_storage().data_ptr() for x in (first, second) for t in (x["image"], x["image_ir"])}
    assert len(blocks) == 1


@pytest.mark.parametrize("cuda", [False, True])
def test_memory_is_pinned_where_there_is_a_gpu(monkeypatch, cuda):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert build_train_loader(TOY, draws, 1).pin_memory == cuda


def test_every_epoch_is_a_new_permutation():
    stream = sum(ids(take(build_train_loader(TOY, draws, 3, seed=1), 20)), [])
    epochs = [tuple(stream[i : i + 5]) for i in range(0, 60, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len(set(epochs)) > 6
    assert sum(ids(take(build_train_loader(TOY, draws, 3, seed=2), 20)), []) != stream


def test_draws_depend_on_seed_and_position_alone():
    def stream(**kwargs):
        return [s["draws"] for batch in take(build_train_loader(TOY, draws, 1, **kwargs), 12) for s in batch]

    first = stream(seed=4)
    assert len(set(first)) == 12  # the same pair is drawn anew in each epoch
    random.seed(9), np.random.seed(9), torch.manual_seed(9)
    assert stream(seed=4) == first
    assert stream(seed=5)[0] != first[0]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_callers_generators_are_left_alone(num_workers):
    def following():
        return random.random(), np.random.rand(), torch.rand(1).item()

    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    expected = following()
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    take(build_train_loader(TOY, draws, 2, num_workers=num_workers), 3)
    assert following() == expected


def test_ranks_share_each_global_batch(monkeypatch):
    whole = take(build_train_loader(TOY, draws, 4, seed=6, start=2), 6)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        parts.append(take(build_train_loader(TOY, draws, 4, seed=6, start=2), 6))
    assert [a + b for a, b in zip(*parts, strict=True)] == whole
    with pytest.raises(UserError, match="total_batch_size=3"):
        build_train_loader(TOY, draws, 3)


def test_no_seed_takes_the_shared_one(monkeypatch):
    monkeypatch.setattr(comm, "shared_random_seed", lambda: 1234)
    loader = build_train_loader(TOY, draws, 1, seed=None)
    assert loader.seed == 1234
    assert take(loader, 4) == take(build_train_loader(TOY, draws, 1, seed=1234), 4)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"total_batch_size": 0}, "total_batch_size=0"),
        ({"start": -1}, "start=-1"),
        ({"num_workers": -1}, "num_workers=-1"),
        ({"on_bad_pair": "skpi"}, "did you mean 'skip'"),
        ({"dataset": []}, "no pairs"),
    ],
)
def test_wrong_arguments(kwargs, message):
    with pytest.raises(UserError, match=message):
        build_train_loader(**{"dataset": TOY, "mapper": draws, "total_batch_size": 2, **kwargs})


def cut(path):
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_pair_stops_with_its_own_line(dataset, num_workers):
    cut(dataset[3]["ir_file_name"])
    loader = build_train_loader(dataset, PairedDatasetMapper(True), 1, num_workers=num_workers, seed=0)
    seen = []
    with pytest.raises(BadPair) as caught:
        for batch in loader:
            seen += ids([batch])
    text = str(caught.value)
    assert text.startswith(f"infrared image {dataset[3]['ir_file_name']} cannot be read") and "\n" not in text
    assert caught.value.file_name == dataset[3]["ir_file_name"]
    # In order: all the good pairs before it were delivered.
    order = sum(ids(take(build_train_loader(TOY, draws, 1, seed=0), 5)), [])
    assert sum(seen, []) == order[: order.index(3)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_pairs_are_skipped_counted_and_named(dataset, mapper, num_workers, caplog):
    good = take(build_train_loader(dataset, mapper.mapper, 2, seed=0), 5)
    bad = dataset[3]["file_name"]
    cut(bad)
    arguments = {"num_workers": num_workers, "seed": 0, "on_bad_pair": "skip"}
    loader = build_train_loader(dataset, mapper.mapper, 2, **arguments)
    with caplog.at_level(logging.WARNING, logger="ivtuning.data"):
        batches = take(loader, 5)  # two epochs
    assert loader.skipped == {bad: 2}
    lines = [record.getMessage() for record in caplog.records if record.name == "ivtuning.data"]
    assert [line.split(": ")[0] for line in lines] == [f"skipped {bad} (time {n})" for n in (1, 2)]
    for before, after in zip(itertools.chain(*good), itertools.chain(*batches), strict=True):
        if before["file_name"] == bad:
            assert after["file_name"] != bad
        else:
            assert_equal([[before]], [[after]])
    again = build_train_loader(dataset, mapper.mapper, 2, start=2, **arguments)
    assert_equal(take(again, 3), batches[2:])


def test_a_bad_pair_to_paste_from_is_skipped_too(dataset, mapper):
    cut(dataset[3]["file_name"])
    pasting = CopyPaste(mapper.mapper, dataset, prob=1.0)
    loader = build_train_loader(dataset, pasting, 1, on_bad_pair="skip")
    assert 3 not in sum(ids(take(loader, 30)), [])
    assert set(loader.skipped) == {dataset[3]["file_name"]} and loader.skipped[dataset[3]["file_name"]] > 6


@pytest.mark.parametrize("on_bad_pair", ["stop", "skip"])
def test_a_mapper_may_decline(on_bad_pair):
    def picky(dataset_dict):
        return None if dataset_dict["image_id"] == 2 else draws(dataset_dict)

    loader = build_train_loader(TOY, picky, 5, on_bad_pair=on_bad_pair)
    assert set(ids(take(loader, 1))[0]) == {0, 1, 3, 4}
    assert loader.skipped == {"2.png": 1}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_nothing_usable_ends(num_workers):
    def missing(dataset_dict):
        raise BadPair(f"{dataset_dict['file_name']} is missing", dataset_dict["file_name"])

    loader = build_train_loader(TOY, missing, 1, num_workers=num_workers, on_bad_pair="skip")
    with pytest.raises(
        UserError, match=r"none of the 5 training pairs can be used; the first: \d.png is missing"
    ):
        next(iter(loader))


@pytest.mark.parametrize("on_bad_pair", ["stop", "skip"])
def test_other_user_errors_pass_unchanged(on_bad_pair):
    def wrong(dataset_dict):
        raise UserError("augmentations are wrong: fix them")

    loader = build_train_loader(TOY, wrong, 1, num_workers=1, on_bad_pair=on_bad_pair)
    with pytest.raises(UserError) as caught:
        next(iter(loader))
    assert str(caught.value) == "augmentations are wrong: fix them" and type(caught.value) is UserError


def test_bugs_are_not_hidden():
    def broken(dataset_dict):
        return dataset_dict["no such key"]

    with pytest.raises(KeyError, match="no such key"):
        next(iter(build_train_loader(TOY, broken, 1, on_bad_pair="skip")))
