"""Pairs that lack an image: at the model's door, in the mapper, in training, in JSON, on the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.utils.events import EventStorage
from helpers.tiny import detector, labeled, sample, segmentor

from ivtuning.config import load_config
from ivtuning.data.datasets.detection import register_pairs
from ivtuning.data.image_files import BadPair
from ivtuning.data.images import read_pair
from ivtuning.data.loaders.train import build_train_loader
from ivtuning.data.mappers.copy_paste import CopyPaste
from ivtuning.data.mappers.pairs import PairedDatasetMapper
from ivtuning.data.modalities import IMAGE_KEYS, MODALITIES, TIMES, absent_modality, time_of
from ivtuning.data.verify.verification import verify
from ivtuning.errors import UserError
from ivtuning.heads.segmentation.inference import MultiScaleFlip, SlidingWindow
from ivtuning.visualization import gallery, painters
from ivtuning.visualization.boxes import draw_pair

KEYS = dict(zip(MODALITIES, IMAGE_KEYS, strict=True))
CONFIG = "configs/synthetic/ivtuning.py"


def without(modality: str, *args, **kwargs) -> dict:
    return {k: v for k, v in sample(*args, **kwargs).items() if k != KEYS[modality]}


@pytest.fixture
def record(pairs) -> dict:
    return DatasetCatalog.get("synthetic_val")[0]


def test_which_image_a_record_lacks():
    pair = {"file_name": "a.png", "ir_file_name": "b.png"}
    assert absent_modality(pair) is None
    assert absent_modality({"file_name": "a.png"}) == "infrared"
    assert [absent_modality({**pair, "missing": modality}) for modality in MODALITIES] == list(MODALITIES)


def test_time_of_a_stem():
    assert (time_of("00537D"), time_of("00881N")) == TIMES
    assert time_of("00001") is time_of("") is None


def entering(model, batch):
    return model.preprocess_image(batch).tensor


# ---- the model's door ----


@pytest.mark.parametrize("modality, channels", [("visible", slice(0, 3)), ("infrared", slice(3, 6))])
@pytest.mark.parametrize("fill", ["mean", "zero"])
def test_fill_is_exact_after_normalization_and_padding(modality, channels, fill):
    model = detector(f"model.fill_missing={fill}", "model.square_pad=64")
    entered = entering(model, [without(modality, 40, 60)])[0]
    black = -(model.pixel_mean / model.pixel_std)[channels].expand(3, 40, 60)
    assert torch.equal(entered[channels, :40, :60], torch.zeros(3, 40, 60) if fill == "mean" else black)
    assert entered.shape == (6, 64, 64)
    assert not entered[:, 40:].any() and not entered[:, :, 60:].any()
    whole = entering(model, [sample(40, 60)])[0]
    other = slice(3, 6) if modality == "visible" else slice(0, 3)
    assert torch.equal(entered[other], whole[other]) and entered[other].any()


def test_one_batch_may_mix_complete_and_incomplete_pairs():
    model = detector("model.fill_missing=mean")
    batch = [sample(40, 60), without("visible", 48, 56, seed=1), without("infrared", 32, 64, seed=2)]
    keys = [set(x) for x in batch]
    images = entering(model, batch)
    alone = [entering(model, [x])[0] for x in batch]
    for image, one in zip(images, alone, strict=True):
        assert torch.equal(image[:, : one.shape[1], : one.shape[2]], one)
    empty = [[not part.any() for part in (image[:3], image[3:])] for image in images]
    assert empty == [[False, False], [True, False], [False, True]]
    assert [set(x) for x in batch] == keys  # the caller's dicts


def test_three_channel_model_fills_visible_and_never_misses_infrared():
    plain = ["model.pixel_mean=[1,2,3]", "model.pixel_std=[1,1,1]"]
    plain += ["model.backbone.net.stem=VisibleOnly", "model.backbone.net.tuner=Mona"]
    assert entering(detector(*plain), [without("infrared")]).shape[1] == 3
    assert not entering(detector(*plain, "model.fill_missing=mean"), [without("visible")]).any()
    with pytest.raises(
        UserError, match="takes visible, but the sample has no 'image': .*model.fill_missing=mean"
    ):
        entering(detector(*plain), [without("visible")])


@pytest.mark.parametrize("modality, key", KEYS.items())
def test_by_default_a_missing_image_is_an_error(modality, key):
    model = detector().eval()
    with pytest.raises(UserError, match=f"vis/0.png: .*no {key!r}: .*model.fill_missing=mean"):
        model([without(modality)])


def test_neither_image_is_always_an_error():
    with pytest.raises(UserError, match="vis/0.png: the sample has neither"):
        entering(detector("model.fill_missing=zero"), [{"file_name": "vis/0.png"}])


def test_unknown_fill_is_reported():
    with pytest.raises(UserError, match="model.fill_missing='means': give .*did you mean 'mean'"):
        detector("model.fill_missing=means")


@pytest.mark.parametrize("modality", KEYS)
@pytest.mark.parametrize("fill", ["mean", "zero"])
def test_whole_batches_without_a_modality_train_and_predict(modality, fill):
    # A constant map has no variance: what the adapters' batch norms and SimAM divide by.
    model = detector(f"model.fill_missing={fill}", "model.backbone.net.tuner.zero_init=False").train()
    with EventStorage():
        losses = model([without(modality, seed=0), without(modality, seed=1)])
    sum(losses.values()).backward()
    trained = [p for p in model.parameters() if p.grad is not None]
    assert trained and all(p.grad.isfinite().all() for p in trained)
    assert all(b.isfinite().all() for b in model.buffers())
    with torch.no_grad():
        (output,) = model.eval()([without(modality)])
    assert output["instances"].image_size == (64, 96) and output["instances"].scores.isfinite().all()


# ---- the segmentor's door ----


@pytest.mark.parametrize("modality, channels", [("visible", slice(0, 3)), ("infrared", slice(3, 6))])
@pytest.mark.parametrize("fill", ["mean", "zero"])
def test_segmentor_fills_in_training_and_in_evaluation(modality, channels, fill):
    model, entered = segmentor(fill_missing=fill, square_pad=64), []
    model.backbone.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    whole = labeled(40, 60)
    lacking = {k: v for k, v in whole.items() if k != KEYS[modality]}
    keys = set(lacking)
    losses = model.train()([lacking, whole])
    assert all(loss.isfinite() for loss in losses.values())
    with torch.no_grad():
        (output,) = model.eval()([lacking])
    assert output["sem_seg"].shape == (3, 40, 60) and output["sem_seg"].isfinite().all()
    black = -(model.pixel_mean / model.pixel_std)[channels].expand(3, 40, 60)
    for batch in entered:
        assert batch.shape[1:] == (6, 64, 64)
        assert torch.equal(batch[0, channels, :40, :60], torch.zeros(3, 40, 60) if fill == "mean" else black)
        assert not batch[0, :, 40:].any() and not batch[0, :, :, 60:].any()
        other = slice(3, 6) if modality == "visible" else slice(0, 3)
        assert torch.equal(batch[0, other], entered[0][1, other]) and batch[0, other].any()
    assert set(lacking) == keys


@pytest.mark.parametrize("modality, key", KEYS.items())
@pytest.mark.parametrize("training", [True, False])
def test_segmentor_refuses_a_missing_image_by_default(modality, key, training):
    model, x = segmentor().train(training), labeled(40, 60)
    del x[key]
    with pytest.raises(UserError, match=f"vis/0.png: .*no {key!r}: .*model.fill_missing=mean"):
        model([x])


@pytest.mark.parametrize("inference", [SlidingWindow(32, 16), MultiScaleFlip((0.5, 1.0))])
@pytest.mark.parametrize("modality", KEYS)
def test_mean_stays_the_mean_in_windows_and_at_every_scale(inference, modality):
    model, x = segmentor(fill_missing="mean", inference=inference).eval(), labeled(40, 60)
    del x[KEYS[modality]]
    entered = []
    model.backbone.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    with torch.no_grad():
        model([x])
    gone, kept = (slice(0, 3), slice(3, 6)) if modality == "visible" else (slice(3, 6), slice(0, 3))
    assert entered and all(not b[:, gone].any() and b[:, kept].any() for b in entered)


# ---- the mapper ----


@pytest.mark.parametrize("modality", KEYS)
def test_mapper_drops_one_and_leaves_the_other_alone(record, modality):
    geometry = [T.RandomFlip(1.0), T.ResizeShortestEdge(60, 100)]
    whole = PairedDatasetMapper(True, geometry)(record)
    kept, gone = ("image_ir", "image") if modality == "visible" else ("image", "image_ir")
    for sample_without in (
        PairedDatasetMapper(True, geometry, drop=modality)(record),
        PairedDatasetMapper(True, geometry)({**record, "missing": modality}),
    ):
        assert gone not in sample_without and torch.equal(sample_without[kept], whole[kept])
        assert torch.equal(sample_without["instances"].gt_boxes.tensor, whole["instances"].gt_boxes.tensor)
        assert (sample_without["height"], sample_without["width"]) == (72, 96)


def test_photometric_changes_stay_with_their_image(record):
    mapper = PairedDatasetMapper(True, [], [lambda a: a // 2], [lambda a: a // 4], drop="visible")
    _, infrared = read_pair(record)
    assert torch.equal(mapper(record)["image_ir"], torch.from_numpy(infrared // 4).permute(2, 0, 1))


def test_absent_entry_is_fillable_and_a_lost_file_is_not(record):
    entry = {k: v for k, v in record.items() if k != "ir_file_name"}
    assert "image_ir" not in PairedDatasetMapper(False)(entry)
    with pytest.raises(BadPair, match="infrared image nowhere.png is missing"):
        PairedDatasetMapper(False)({**record, "ir_file_name": "nowhere.png"})
    # A dropped image is not read.
    assert "image" in PairedDatasetMapper(False, drop="infrared")({**record, "ir_file_name": "nowhere.png"})


def test_stated_size_is_checked_on_the_image_that_is_there(record):
    with pytest.raises(BadPair, match=r"/ir/.* is 96x72 but its JSON says 96x70"):
        PairedDatasetMapper(False, drop="visible")({**record, "height": 70})


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(drop="infared"), "drop='infared': give visible or infrared; did you mean 'infrared'"),
        (dict(modality_dropout=1.5), "modality_dropout=1.5: give a probability"),
        (dict(modality_dropout=0.5, is_train=False), "for training: evaluate with drop="),
    ],
)
def test_wrong_options_are_reported(options, message):
    with pytest.raises(UserError, match=message):
        PairedDatasetMapper(**{"is_train": True, **options})


def test_nothing_may_be_left_of_a_pair(record):
    with pytest.raises(UserError, match="no infrared image: drop=visible would leave nothing"):
        PairedDatasetMapper(False, drop="visible")({**record, "missing": "infrared"})
    with pytest.raises(UserError, match="missing='ir': give visible or infrared"):
        PairedDatasetMapper(False)({**record, "missing": "ir"})


# ---- training ----


def lost(batch) -> list[str]:
    return ["".join(m[0] for m, key in KEYS.items() if key not in x) for x in batch]


def stream(dataset, dropout, batches, **kwargs) -> list[str]:
    mapper = PairedDatasetMapper(True, modality_dropout=dropout)
    loader = iter(build_train_loader(dataset, mapper, 4, seed=3, **kwargs))
    return [name for _ in range(batches) for name in lost(next(loader))]


def test_dropout_takes_either_modality_at_its_rate_and_never_both(pairs):
    lost_images = stream(DatasetCatalog.get("synthetic_train")[:2], 0.5, 100)
    counts = {name: lost_images.count(name) for name in set(lost_images)}
    assert set(counts) == {"", "v", "i"}
    # Three standard deviations of 400 draws.
    assert abs(counts[""] - 200) < 30 and abs(counts["v"] - 100) < 26 and abs(counts["i"] - 100) < 26


def test_dropout_is_a_function_of_seed_and_position(pairs):
    dataset = DatasetCatalog.get("synthetic_train")
    lost_images = stream(dataset, 0.6, 6)
    assert len(set(lost_images)) == 3
    assert stream(dataset, 0.6, 3, start=3) == lost_images[12:]
    assert stream(dataset, 0.6, 6, num_workers=1) == lost_images


def test_no_dropout_leaves_the_draws_of_a_seed_as_they_were(record):
    def draw(**options):
        np.random.seed(0)
        PairedDatasetMapper(True, **options)(record)
        return np.random.uniform()

    assert draw() == draw(modality_dropout=0.0) != draw(modality_dropout=1e-9)


def test_dropout_takes_nothing_from_an_incomplete_pair(record):
    mapper = PairedDatasetMapper(True, modality_dropout=1.0)
    for modality in KEYS:
        assert lost([mapper({**record, "missing": modality})]) == [modality[0]]


def test_copy_paste_pastes_into_what_is_there(pairs):
    dataset = [r for r in DatasetCatalog.get("synthetic_train") if r["annotations"]][:2]
    incomplete = {**dataset[0], "missing": "visible"}
    mapper = PairedDatasetMapper(True)

    def pasted(first, second):
        np.random.seed(0)
        return CopyPaste(mapper, [second], prob=1.0)(first)

    changed = pasted(incomplete, dataset[1])
    assert lost([changed]) == ["v"]
    assert not torch.equal(changed["image_ir"], mapper(incomplete)["image_ir"])
    # A source without a visible image has no pixels for a complete pair.
    same = pasted(dataset[1], incomplete)
    assert torch.equal(same["image_ir"], mapper(dataset[1])["image_ir"])
    assert len(same["instances"]) == len(mapper(dataset[1])["instances"])


# ---- JSON files ----


@pytest.fixture
def declared(pairs, tmp_path):
    """The validation set; its first image states that infrared is missing, its second that visible is."""
    content = json.loads((pairs / "annotations" / "val.json").read_text())
    first, second = content["images"][:2]
    first["missing"], second["missing"] = "infrared", "visible"
    del first["ir_file_name"]
    second["file_name"] = "not there.png"
    file = tmp_path / "val.json"
    file.write_text(json.dumps(content))
    register_pairs("declared_val", file, pairs)
    yield file, pairs
    DatasetCatalog.remove("declared_val")
    MetadataCatalog.remove("declared_val")


def test_json_may_declare_what_is_missing(declared):
    dicts = DatasetCatalog.get("declared_val")
    assert "ir_file_name" not in dicts[0] and [d.get("missing") for d in dicts[:3]] == [
        "infrared",
        "visible",
        None,
    ]
    mapper = PairedDatasetMapper(False)
    assert lost(map(mapper, dicts)) == ["i", "v", "", ""]
    with torch.no_grad():
        assert len(detector("model.fill_missing=mean").eval()([mapper(d) for d in dicts])) == 4


def test_unknown_declaration_is_reported(declared):
    file, _ = declared
    file.write_text(file.read_text().replace('"missing": "visible"', '"missing": "visual"'))
    with pytest.raises(UserError, match="not there.png: missing is 'visual', not .*did you mean 'visible'"):
        DatasetCatalog.get("declared_val")


def test_verification_looks_at_what_is_there(declared):
    file, root = declared
    assert not verify({"declared_val": (file, root)}, sample=0).findings
    file.write_text(file.read_text().replace('"missing": "visible"', '"time": "day"'))
    (finding,) = verify({"declared_val": (file, root)}, sample=0).findings
    assert (finding.kind, finding.where) == ("missing", "not there.png")


def test_missing_image_is_drawn_black(declared, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        painters, "draw_pair", lambda vis, ir, *rest: drawn.append((vis, ir)) or draw_pair(vis, ir, *rest)
    )
    records = DatasetCatalog.get("declared_val")[:3]
    facts = {"source": "declared_val"}
    painter = painters.BoxPainter(["a"] * 4, threshold=0.5)
    gallery.draw_records(records, painter, None, tmp_path / "out", grid=False, facts=facts)
    assert [(vis.any(), ir.any()) for vis, ir in drawn] == [(True, False), (False, True), (True, True)]
    assert all(vis.shape == ir.shape == (72, 96, 3) for vis, ir in drawn)


# ---- the command line ----


def test_keys_are_legal_on_the_command_line(pairs):
    overrides = ["dataloader.test.mapper.drop=infrared", "model.fill_missing=mean"]
    cfg = load_config(CONFIG, [*overrides, "dataloader.train.mapper.modality_dropout=0.3"])
    assert instantiate(cfg.dataloader.train.mapper).modality_dropout == 0.3
    assert instantiate(cfg.model).fill_missing == "mean"
    for batch in instantiate(cfg.dataloader.test):
        assert lost(batch) == ["i"]
    with pytest.raises(UserError, match="has no 'fill_mising'; did you mean 'fill_missing'"):
        load_config(CONFIG, ["model.fill_mising=mean"])


def test_every_detector_config_takes_the_keys():
    for config in ("configs/M3FD/vitdet_ivtuning_b.py", "configs/quick/mask_rcnn.py"):
        cfg = load_config(config, ["model.fill_missing=zero", "dataloader.test.mapper.drop=visible"])
        assert cfg.model.fill_missing == "zero" and cfg.dataloader.test.mapper.drop == "visible"
