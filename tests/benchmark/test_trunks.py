"""The benchmark's trunks, shortened."""

from __future__ import annotations

import pytest

from ivtuning.benchmark.subjects import trunks
from ivtuning.errors import UserError
from ivtuning.tuning import Frozen
from ivtuning.tuning.stems import VisibleOnly


@pytest.mark.parametrize(
    ("name", "depth", "expected"),
    [
        ("vitdet_b", 6, {"depth": 6, "global_blocks": range(2, 6, 3)}),
        ("vit_l", 5, {"depth": 5, "out_indices": (4,)}),
        ("swin_l", 12, {"depths": (2, 2, 6, 2)}),
    ],
)
def test_shortened_trunks(name, depth, expected):
    assert trunks.shortened(name, depth) == expected


@pytest.mark.parametrize(
    ("name", "depth", "words"),
    [
        ("vitdet_b", 4, "a multiple of 3 up to 12"),
        ("vitdet_b", 15, "a multiple of 3 up to 12"),
        ("swin_l", 7, "an even number from 8 to 24"),
        ("vit_l", 25, "1 to 24"),
        ("vitdt_b", 3, "did you mean 'vitdet_b'"),
    ],
)
def test_depths_and_names_that_do_not_exist(name, depth, words):
    with pytest.raises(UserError, match=words):
        trunks.build(name, VisibleOnly(), Frozen(), depth)


@pytest.mark.parametrize(
    ("name", "most", "expected"),
    [
        ("vitdet_b", None, [3, 6, 9, 12]),
        ("vitdet_b", 6, [3, 6]),
        ("vit_l", None, [1, 9, 16, 24]),
        ("swin_l", None, [8, 14, 18, 24]),
        ("vitdet_nano", 2, [2]),
    ],
)
def test_depths_of_a_trunk(name, most, expected):
    assert trunks.depths(name, most) == expected
