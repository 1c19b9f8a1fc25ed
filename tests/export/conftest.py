"""Tiny models of every family but detectors, and their files, which are exported once."""

from __future__ import annotations

import pytest
from helpers.exportable import MODELS, export

from ivtuning.export.options import Options

CASES = {
    # Width and height that no patch or window divides.
    "plain_vit": (Options((37, 53), dynamic=("batch",)), {"fill_missing": "mean"}),
    "eva": (Options((37, 53)), {"fill_missing": "zero"}),
    "vitdet": (Options((40, 56), dynamic=("batch", "size")), {}),
    "swin": (Options((37, 53), dynamic=("batch", "size"), stage="raw"), {}),
    "classifier": (Options((40, 40), batch=2), {}),
}


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A function: name of a case -> (model, options, file, comparison)."""
    made: dict = {}

    def get(name: str):
        if name not in made:
            options, kwargs = CASES[name]
            model = MODELS[name](**kwargs)
            path = tmp_path_factory.mktemp("exported") / f"{name}.onnx"
            made[name] = model, options, path, export(model, path, options)
        return made[name]

    return get
