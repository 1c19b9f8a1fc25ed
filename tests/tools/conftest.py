"""tools/predict.py with models of random weights."""

from __future__ import annotations

import json

import pytest
from helpers.predicting import DETECTION, SEGMENTATION, random_weights
from helpers.tools import load_tool


@pytest.fixture(scope="package")
def weights(tmp_path_factory) -> dict[str, str]:
    return random_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def predict(weights, pairs, capsys):
    """A function (*arguments) -> summary that calls the tool."""

    def call(*arguments, model: str = "boxes") -> dict:
        start = DETECTION if model == "boxes" else SEGMENTATION
        load_tool("predict").main([*start, "--weights", weights[model], *map(str, arguments), "--json"])
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return call
