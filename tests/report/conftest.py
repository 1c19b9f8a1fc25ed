"""Folders of tiny runs: a detector that was trained, and models that were not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.runs import TINY, untrained
from PIL import Image

from ivtuning.config import load_config
from ivtuning.data.datasets.detection import register_known
from ivtuning.data.prepare.pair_folders import prepare_pair_folders
from ivtuning.engine import run as engine

DETECTION, SEGMENTATION = "configs/synthetic/ivtuning.py", "configs/synthetic/seg_ivtuning.py"
# Random weights score low: everything passes, so that there is something to count.
EVERYTHING = "model.roi_heads.box_predictor.test_score_thresh=0.0"
SMALL_SWIN = [
    "model.backbone.net.embed_dim=8",
    "model.backbone.net.depths=[1,1,2,2]",
    "model.backbone.net.num_heads=[1,1,2,2]",
    "train.init_checkpoint=",
    "dataloader.test.num_workers=0",
]


@pytest.fixture(scope="session")
def trained(synthetic, tmp_path_factory) -> Path:
    """The folder of a detector that was trained for two steps, and evaluated after each."""
    folder = tmp_path_factory.mktemp("runs") / "<b>ours"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(synthetic))
        register_known()
        options = ["train.max_iter=2", "train.log_period=1", "train.eval_period=1", "train.device=cpu"]
        engine.train(load_config(DETECTION, [*TINY, EVERYTHING, *options, f"train.output_dir={folder}"]))
    register_known()
    return folder


@pytest.fixture(scope="session")
def random_segmentor(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "labels"
    return untrained(folder, SEGMENTATION, *TINY[:3], "train.init_checkpoint=")


@pytest.fixture
def segmentor(random_segmentor, pairs, tmp_path) -> Path:
    """The folder of a segmentor with random weights, which a test may damage."""
    return Path(shutil.copytree(random_segmentor, tmp_path / "labels"))


@pytest.fixture
def pair_classifier(tmp_path) -> Path:
    """The folder of a classifier of pairs by day and by night."""
    for time in ("day", "night"):
        for name, level in (("bright", 200), ("dark", 50)):
            for kind in ("vis", "ir"):
                (tmp_path / time / kind / name).mkdir(parents=True)
                noise = np.random.default_rng([level, len(time), len(kind)]).integers(
                    0, 40, (2, 40, 40, 3), np.uint8
                )
                for i, pixels in enumerate(noise + np.uint8(level)):
                    image = Image.fromarray(pixels)
                    (image if kind == "vis" else image.convert("L")).save(
                        tmp_path / time / kind / name / f"{i}.png"
                    )
    places = (f"{tmp_path}/*/{kind}/*/*.png" for kind in ("vis", "ir"))
    files = prepare_pair_folders(*places, tmp_path / "set", name="set", split="0.5")
    sets = [f"data.{part}={file}" for part, file in zip(("train", "val"), files, strict=True)]
    return untrained(tmp_path / "pairs", "configs/custom/pair_classification.py", *sets, *SMALL_SWIN)


@pytest.fixture
def classifier(tmp_path) -> Callable[..., Path]:
    """A function (*overrides) that makes the folder of a classifier of images of one color."""
    colors = {"<i>red": (250, 20, 20), "blue & co": (20, 20, 250)}
    for part in ("train", "val"):
        for name, color in colors.items():
            (tmp_path / part / name).mkdir(parents=True)
            Image.fromarray(np.full((40, 40, 3), color, np.uint8)).save(
                tmp_path / part / name / f"{part}.png"
            )
    sets = [f"data.{part}={tmp_path / part}" for part in ("train", "val")]
    return lambda *overrides: untrained(
        tmp_path / "images", "configs/custom/classification.py", *sets, *SMALL_SWIN, *overrides
    )
