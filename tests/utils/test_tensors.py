"""Values and types that weights may have."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from helpers.weights import Detector, mae_state, randomize, same, save, snapshot, vitdet

from ivtuning.checkpoint import load_adapter, load_pretrained, save_adapter
from ivtuning.errors import UserError

NAME = "blocks.1.mlp.fc1.weight"


def changed(change, name=NAME):
    state = mae_state()
    return {**state, name: change(state[name].clone())}


def with_value(value):
    def change(tensor):
        tensor[1, 2] = value
        return tensor

    return change


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_values_that_are_not_finite_are_named(tmp_path, value, dtype, suffix):
    path = tmp_path / f"x.{suffix}"
    state = changed(lambda t: with_value(value)(t).to(dtype))
    torch.save(state, path) if suffix == "pth" else safetensors.torch.save_file(state, path)
    trunk = vitdet()
    before = snapshot(trunk)
    with pytest.raises(UserError, match=rf"x.{suffix}: {NAME} holds NaN or infinite values .1 of 4,096."):
        load_pretrained(trunk, path)
    assert same(trunk.state_dict(), before)


def test_values_that_nothing_uses_do_not_matter(tmp_path):
    load_pretrained(
        vitdet(), save(tmp_path / "x.pth", mae_state() | {"head.bias": torch.full((5,), torch.nan)})
    )


def test_nan_in_positions_that_are_resized(tmp_path):
    state = mae_state() | {"pos_embed": torch.full((1, 65, 32), torch.nan)}
    with pytest.raises(UserError, match="pos_embed holds NaN"):
        load_pretrained(vitdet(), save(tmp_path / "x.pth", state))


@pytest.mark.parametrize(
    "dtype",
    [torch.int64, torch.int8, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.uint16],
)
@pytest.mark.parametrize("name", [NAME, "pos_embed"])
def test_types_that_are_no_weights_are_named(tmp_path, dtype, name):
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(UserError, match=f"{name} is {kind}, the model's is float32: save it as float32"):
        load_pretrained(vitdet(), save(tmp_path / "x.pth", changed(lambda t: t.to(dtype), name)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions_are_cast(tmp_path, dtype):
    trunk = vitdet()
    load_pretrained(trunk, save(tmp_path / "x.pth", {n: t.to(dtype) for n, t in mae_state().items()}))
    weight = trunk.get_parameter(NAME)
    assert weight.dtype is torch.float32 and torch.equal(weight, mae_state()[NAME].to(dtype).float())


def test_counters_may_be_floats_of_whole_numbers(tmp_path):
    source, model = randomize(Detector()), Detector()
    state, name = source.state_dict(), "roi_heads.norm.num_batches_tracked"
    state[name] = torch.tensor(70.0).half()
    load_pretrained(model, save(tmp_path / "x.pth", state), strict=True)
    assert model.state_dict()[name] == 70
    with pytest.raises(UserError, match=f"{name} holds float32 fractions, the model's is int64"):
        load_pretrained(model, save(tmp_path / "x.pth", state | {name: torch.tensor(0.5)}))


@pytest.mark.parametrize(
    "name, shape",
    [
        (NAME, ()), (NAME, (0, 32)), (NAME, (128, 32, 1)), ("patch_embed.proj.weight", ()),
        ("patch_embed.proj.weight", (32,)), ("pos_embed", ()), ("pos_embed", (1, 0, 32)),
        ("pos_embed", (17, 32)), ("pos_embed", (2, 17, 32)), ("pos_embed", (1, 17, 8)),
        ("pos_embed", (1, 4, 4, 8)),
    ],
)  # fmt: skip
def test_other_shapes_are_named_with_both(tmp_path, name, shape):
    theirs = "x".join(map(str, shape)) or "scalar"
    with pytest.raises(UserError, match=rf"x.pth: .*{name}\D* {theirs}.*\d+x\d+.*"):
        load_pretrained(vitdet(), save(tmp_path / "x.pth", mae_state() | {name: torch.ones(shape)}))


def test_adapters_are_checked_alike(tmp_path):
    model = randomize(Detector())
    save_adapter(model, tmp_path / "good.safetensors")
    before = snapshot(model)
    model.backbone.net.stem.norm.weight.data[3] = torch.nan
    save_adapter(model, tmp_path / "nan.safetensors")
    model.load_state_dict(before)
    with pytest.raises(UserError, match="nan.safetensors: backbone/stem.norm.weight holds NaN"):
        load_adapter(model, tmp_path / "nan.safetensors")
    assert same(model.state_dict(), before)
    load_adapter(model, tmp_path / "good.safetensors")
