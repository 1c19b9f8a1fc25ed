"""The examples of docs/deploy.md run where neither torch nor detectron2 can be imported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from detectron2.layers import paste_masks_in_image
from helpers.exportable import images
from helpers.pages import code_blocks
from helpers.tools import ROOT
from PIL import Image

ALONE = "import sys\nfor name in ('torch', 'detectron2', 'timm'):\n    sys.modules[name] = None\n"


@pytest.mark.slow
def test_the_examples_need_onnxruntime_alone(exported, tmp_path):
    _, options, path, _ = exported("eva")
    shutil.copy(path, tmp_path / "model.onnx")
    pair = [x.numpy()[0].transpose(1, 2, 0) for x in images(1, *options.size)]
    for name, image in zip(("visible", "infrared"), pair, strict=True):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    keep = "np.savez('found.npz', **found, **{f'first_{name}': value for name, value in outputs.items()})"
    code = "\n".join([ALONE, *code_blocks("deploy.md"), "assert classes == ['a', 'b', 'c']", keep])
    environment = os.environ | {"PYTHONPATH": str(ROOT / "projects")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    assert found["label_map"].shape == (1, *options.size)
    assert np.array_equal(found["label_map"], found["first_label_map"])


def test_masks_are_pasted_as_detectron2_does():
    (code,) = (block for block in code_blocks("deploy.md") if "def paste" in block)
    variables: dict = {"np": np}
    exec(code, variables)
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(8, 1, 5, 5, generator=generator)
    masks = torch.nn.functional.interpolate(coarse, (28, 28), mode="bicubic").clamp(0, 1)[:, 0]
    corner = torch.rand(8, 2, generator=generator) * 60
    boxes = torch.cat([corner, corner + 10 + torch.rand(8, 2, generator=generator) * 60], 1)
    expected = paste_masks_in_image(masks, boxes, (90, 110)).numpy()
    found = np.stack(
        [variables["paste"](m.numpy(), b.numpy(), 90, 110) for m, b in zip(masks, boxes, strict=True)]
    )
    assert expected.sum() > 1000
    assert (found != expected).sum() < 0.01 * expected.sum()
