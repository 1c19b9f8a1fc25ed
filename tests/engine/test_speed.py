"""The keys of `train` that trade memory and time: the figures stay, and what they promise is so."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
from detectron2.utils.events import EventStorage
from helpers.runs import config
from helpers.tiny import detector, plain_vit, sample, swin, vitdet
from torch import nn

from ivtuning.backbones.trunk import find_trunk
from ivtuning.checkpoint import save_adapter
from ivtuning.checkpoint.files import read as read_checkpoint
from ivtuning.config import load_config
from ivtuning.engine import run, speed
from ivtuning.errors import UserError
from ivtuning.tuning import TUNERS, Frozen
from ivtuning.tuning.stems import PromptStem, VisibleOnly

TRUNKS = {"ViTDet": vitdet, "PlainViT": plain_vit, "Swin": swin}
BF16 = "train.frozen_dtype=bf16", "train.precision=bf16"


def figures(trunk, autocast: bool):
    """Outputs and gradients of one pass in training mode."""
    torch.manual_seed(1)
    x = torch.randn(2, 6, 40, 56)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = trunk(x)
    sum(o.float().square().sum() for o in out.values()).backward()
    return out, {name: p.grad for name, p in trunk.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", TRUNKS)
@pytest.mark.parametrize("tuner", [n for n in TUNERS if n not in ("Full", "Frozen")])
def test_frozen_bf16_gives_the_bits_of_autocast(kind, tuner):
    torch.manual_seed(0)
    trunk = TRUNKS[kind](PromptStem(zero_init=False), TUNERS[tuner]()).train()
    halved = copy.deepcopy(trunk)
    speed.halve_frozen(halved)
    (out, grads), (halved_out, halved_grads) = figures(trunk, True), figures(halved, True)
    for name, value in out.items():
        assert torch.equal(halved_out[name], value)
    assert halved_grads.keys() == grads.keys() != set()
    for name, value in grads.items():
        assert torch.equal(halved_grads[name], value), name


def test_frozen_bf16_halves_the_frozen_weights_and_touches_nothing_else():
    trunk = vitdet()
    before = {name: p.dtype for name, p in trunk.named_parameters()}
    layers = [m for m in trunk.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    frozen = sum(m.weight.nbytes for m in layers if not m.weight.requires_grad)
    whole = sum(p.nbytes for p in trunk.parameters())
    speed.halve_frozen(trunk)
    assert sum(p.nbytes for p in trunk.parameters()) == whole - frozen // 2
    changed = {name for name, p in trunk.named_parameters() if p.dtype != before[name]}
    assert "blocks.0.attn.qkv.weight" in changed and "patch_embed.proj.weight" in changed
    for name, parameter in trunk.named_parameters():
        assert parameter.dtype == (torch.bfloat16 if name in changed else torch.float32)
        assert not (parameter.requires_grad and name in changed)


@pytest.mark.slow
def test_a_run_with_frozen_bf16(pairs, tmp_path, monkeypatch):
    """Losses as with fp32 weights under autocast; files in fp32; exact resume; evaluation."""
    options = [
        "train.max_iter=4",
        "train.log_period=1",
        "train.checkpointer.period=2",
        "train.precision=bf16",
    ]
    models = []
    build = run.build_model
    monkeypatch.setattr(run, "build_model", lambda cfg: models.append(build(cfg)) or models[-1])
    results = run.train(config(tmp_path / "half", *options, *BF16))
    run.train(config(tmp_path / "whole", *options))
    trunk = find_trunk(models[0]).trunk
    assert trunk.blocks[0].mlp.fc1.weight.dtype == torch.bfloat16
    half, whole = (
        read_checkpoint(tmp_path / name / "model_final.pth")["model"] for name in ("half", "whole")
    )
    assert half.keys() == whole.keys()
    for name, value in whole.items():
        assert half[name].dtype == value.dtype
        # Frozen weights were rounded once, and the trained ones saw the same bits.
        same = torch.equal(half[name], value)
        assert same or torch.equal(half[name], value.bfloat16().float()), name
    save_adapter(models[0], tmp_path / "half.safetensors")
    save_adapter(models[1], tmp_path / "whole.safetensors")
    assert (tmp_path / "half.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()

    cut = tmp_path / "cut"
    shutil.copytree(tmp_path / "half", cut)
    (cut / "last_checkpoint").write_text("model_0000001.pth")
    again = run.train(config(cut, *options, *BF16), resume=True)
    assert again["bbox"] == pytest.approx(results["bbox"], nan_ok=True)
    for name, value in read_checkpoint(cut / "model_final.pth")["model"].items():
        assert torch.equal(value, half[name]), name


def test_evaluation_follows_the_frozen_weights():
    model = detector().eval()
    with speed.matching_precision(model):
        assert not torch.is_autocast_enabled("cpu")
    with torch.no_grad():
        expected = model([sample()])
    speed.halve_frozen(find_trunk(model).trunk)
    with speed.matching_precision(model), torch.no_grad():
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16 and torch.is_autocast_enabled("cpu")
        predictions = model([sample()])
    assert len(predictions[0]["instances"]) == len(expected[0]["instances"])


def test_channels_last_keeps_the_figures():
    model = detector().train()
    other = copy.deepcopy(model)
    other.to(memory_format=torch.channels_last)
    losses = []
    for m in (model, other):
        torch.manual_seed(0)
        with EventStorage():
            losses.append(m([sample()]))
        sum(losses[-1].values()).backward()
    for name, value in losses[0].items():
        assert losses[1][name].item() == pytest.approx(value.item(), rel=1e-5), name
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        if p.grad is not None:
            assert (p.grad - q.grad).norm() <= 1e-4 * p.grad.norm() + 1e-7, name


@pytest.mark.parametrize("kept", ["fp32", "bf16"])
def test_residual_dtype_reaches_the_trunk(kept):
    """In training, and in a model that is loaded to predict with `precision="bf16"`."""
    model = run.build_model(config_of(f"train.residual_dtype={kept}", "train.device=cpu"))
    with torch.autocast("cpu", torch.bfloat16):
        out = model.backbone.net(torch.randn(1, 6, 32, 32))["last_feat"]
    assert out.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[kept]


def test_channels_last_reaches_the_convolutions():
    cfg = config_of("train.channels_last=true")
    model = detector()
    speed.speed_up(model, model.backbone.net, cfg.train)
    weights = [
        m.weight for m in model.backbone.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)
    ]
    assert weights and all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


def config_of(*overrides: str):
    return load_config("configs/synthetic/ivtuning.py", list(overrides))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train.frozen_dtype=bf61"], "train.frozen_dtype: input should be 'fp32' or 'bf16'"),
        (["train.frozen_dtype=bf16"], "needs precision=bf16, not fp32"),
        ([*BF16, "train.parallel=fsdp"], "does not go with parallel=fsdp"),
        (["train.residual_dtype=fp16"], "train.residual_dtype: input should be 'fp32' or 'bf16'"),
        (["train.compile=ture"], "train.compile: input should be a valid boolean"),
        (["train.channels_last=1"], "train.channels_last: input should be a valid boolean"),
    ],
)
def test_refused(tmp_path, overrides, words):
    with pytest.raises(UserError, match=words):
        run.train(config(tmp_path, *overrides))


def test_no_compiler_is_one_line(monkeypatch):
    def fails(*args, **kwargs):
        raise RuntimeError("No working C++ compiler found\nand more")

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(UserError, match="No working C.. compiler found.: install a C.. compiler") as error:
        model = detector()
        speed.speed_up(model, model.backbone.net, config_of("train.compile=true").train)
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_compiled_blocks_keep_the_figures():
    """One frozen block alone: compiling takes long."""
    torch.manual_seed(0)
    trunk = plain_vit(VisibleOnly(), Frozen(), depth=1, out_indices=(0,)).eval()
    x = torch.randn(1, 6, 24, 24)
    with torch.no_grad():
        expected = trunk(x)["block0"]
        speed.speed_up(trunk, trunk, config_of("train.compile=true").train)
        assert list(trunk.state_dict()) == list(
            plain_vit(VisibleOnly(), Frozen(), depth=1, out_indices=(0,)).state_dict()
        )
        compiled = trunk(x)["block0"]
    assert not torch.equal(compiled, expected)  # other kernels
    assert (compiled - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_compile_does_not_go_with_recompute_of_blocks():
    trunk = vitdet(activation_checkpointing="block")
    with pytest.raises(UserError, match="activation_checkpointing=mlp"):
        speed.speed_up(trunk, trunk, config_of("train.compile=true").train)
