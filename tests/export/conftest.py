"""Tiny models of every family but detectors, and their files, which are exported once."""

from __future__ import annotations

import pytest
from helpers.exportable import CASES, MODELS, export


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
