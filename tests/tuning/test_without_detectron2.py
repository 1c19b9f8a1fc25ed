"""Adapters alone need neither detectron2 nor any other of its companions, but torch."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers.tools import package_environment

CODE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("detectron2", "timm", "fvcore", "omegaconf", "cv2", "PIL"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Refuse())
import ivtuning
import ivtuning.tuning
import torch

x = torch.randn(2, 5, 7, 24)
for name, tuner in ivtuning.tuning.TUNERS.items():
    tuner = tuner()
    tuner.attach([24, 24])
    for adapters in tuner.blocks or ():
        y = adapters.after_attention(x + adapters.on_attention(x, x), x)
        y = adapters.after_mlp(y + adapters.on_mlp(y, x), y, x)
        y.square().sum().backward()
        with torch.no_grad():
            adapters.eval().after_attention(x.clone(), x)
    print(name)
"""


@pytest.mark.slow
def test_adapters_are_built_and_run_without_detectron2():
    from ivtuning.tuning import TUNERS

    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, capture_output=True, text=True, env=package_environment())
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == sorted(TUNERS)
