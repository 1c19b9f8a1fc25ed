"""Tuning methods on models of timm's: the same values as in the package's own trunks, files, and refusals."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from helpers.server import serve
from helpers.timm_models import MODELS, TINY, disturb, images, tuner_of
from torch import nn

import ivtuning
from ivtuning.errors import UserError
from ivtuning.tuning import TUNERS, IVTuning, LoRA, Mona
from ivtuning.tuning.stems import InfraredOnly, PromptStem, SumStem


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_opened_blocks_compute_what_timm_computes(make):
    model = make().eval()
    disturb(model)  # some models start with a scale of 1e-6 on every branch
    visible, _ = images(model)
    kinds = [type(module) for module in model.modules()]
    with torch.no_grad():
        before = model(visible)
        names = list(model.state_dict())
        tuned = ivtuning.attach(model, LoRA(rank=4))
        torch.testing.assert_close(tuned(visible), before, rtol=1e-5, atol=1e-6)
        assert list(model.state_dict()) == names
        disturb(tuned.tuner)
        assert not torch.allclose(tuned(visible), before, atol=1e-3)
        with tuned.disable():
            torch.testing.assert_close(tuned(visible), before, rtol=1e-5, atol=1e-6)
        back = tuned.unload()
        assert back is model and [type(module) for module in model.modules()] == kinds
        torch.testing.assert_close(back(visible), before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", TUNERS)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_all_that_trains_gets_a_gradient_and_all_else_stays(make, name):
    tuned = ivtuning.attach(make(), tuner_of(name)).train()
    disturb(tuned.tuner)
    pair = images(tuned.model) if tuned.tuner.needs else images(tuned.model)[:1]
    before = copy.deepcopy(tuned.state_dict())
    optimizer = torch.optim.SGD(tuned.trained_parameters(), lr=1e-2)
    tuned(*pair).square().sum().backward()
    trained = {n for n, p in tuned.named_parameters() if p.requires_grad}
    without = [n for n in trained if tuned.get_parameter(n).grad is None]
    assert not without
    optimizer.step()
    for key, value in tuned.state_dict().items():
        if key not in trained and "running" not in key and "num_batches" not in key:
            assert torch.equal(value, before[key]), key
    counts = tuned.count()
    head = sum(p.numel() for p in tuned.model.get_classifier().parameters())
    assert counts["head"] == head
    assert sum(p.numel() for p in tuned.trained_parameters()) == counts["added"] + counts["selected"] + head


@pytest.mark.parametrize("name", ["Mona", "Adapter", "AdaptFormer", "LoRA", "IVTuning"])
def test_values_are_those_of_the_package_s_own_trunk(name):
    """The same base, tuner and stem weights in a PlainViT and in timm's ViT."""
    from ivtuning.backbones.vit import PlainViT
    from ivtuning.tuning.stems import VisibleOnly

    stem = PromptStem if name == "IVTuning" else VisibleOnly
    own = PlainViT(stem(), tuner_of(name), 64, (2,), True, embed_dim=24, depth=3, num_heads=2).eval()
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, embed_dim=24, depth=3, num_heads=2, num_classes=0, global_pool=""
    )
    tuned = ivtuning.attach(model, tuner_of(name), stem()).eval()
    disturb(own)
    base = {n: p for n, p in own.state_dict().items() if not n.startswith(("stem.", "tuner."))}
    model.load_state_dict(base)
    added = {n: p for n, p in own.state_dict().items() if n not in base}
    tuned.load_state_dict(added, strict=False)
    pair = images(model)
    with torch.no_grad():
        theirs = tuned(*(pair if tuned.tuner.needs else pair[:1]))[:, 1:].unflatten(1, (4, 4))
        ours = own(torch.cat(pair, 1))["block2"].permute(0, 2, 3, 1)
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)


def test_prompts_of_a_swin_are_its_stages():
    from ivtuning.backbones.swin import Swin

    sizes = dict(embed_dim=12, depths=(2, 2), num_heads=(1, 2), window_size=4)
    own = Swin(PromptStem(), tuner_of("IVTuning"), **sizes, out_indices=(1,)).eval()
    model = timm.create_model("swin_tiny_patch4_window7_224", img_size=64, num_classes=0, **sizes)
    tuned = ivtuning.attach(model, tuner_of("IVTuning")).eval()
    disturb(own)
    tuned.tuner.load_state_dict(own.tuner.state_dict())
    tuned.stem.load_state_dict(own.stem.state_dict())
    # Patch merging stands in front of a stage in timm, and behind the one before it in the official code.
    named = {}
    for key, value in own.state_dict().items():
        if not key.startswith(("stem.", "tuner.")):
            key = key.replace("layers.0.downsample", "layers.1.downsample").replace("norm1.", "norm.", 0)
            named[key.replace("norm1.", "norm.") if key.startswith("norm1.") else key] = value
    missing, unexpected = model.load_state_dict(named, strict=False)
    assert not unexpected and all("index" in key or "mask" in key for key in missing)
    pair = images(model)
    with torch.no_grad():
        theirs = tuned.forward_features(*pair)
        ours = own(torch.cat(pair, 1))["p1"].permute(0, 2, 3, 1)
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_files_hold_what_was_trained_and_know_their_base(make, tmp_path):
    model = make()
    weights = copy.deepcopy(model.state_dict())
    tuned = ivtuning.attach(model, tuner_of("IVTuning")).eval()
    disturb(tuned.tuner), disturb(tuned.stem), disturb(model.get_classifier())
    pair = images(model)
    tuned.save(tmp_path / "a.safetensors")
    again = make()
    again.load_state_dict(weights)
    again = ivtuning.attach(again, tuner_of("IVTuning")).eval()
    again.load(tmp_path / "a.safetensors")
    with torch.no_grad():
        assert torch.equal(again(*pair), tuned(*pair))
    other = ivtuning.attach(make(), tuner_of("IVTuning"))
    with pytest.raises(UserError, match=r"a\.safetensors: made with base"):
        other.load(tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="made with tuner 'IVTuning', this model has 'Mona'"):
        ivtuning.attach(make(), Mona(hidden_dim=8)).load(tmp_path / "a.safetensors")


def test_a_file_is_loaded_by_its_address(tmp_path, monkeypatch):
    monkeypatch.setenv("IVTUNING_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    model = MODELS["ViT"]()
    weights = copy.deepcopy(model.state_dict())
    tuned = ivtuning.attach(model, LoRA(rank=4))
    disturb(tuned.tuner)
    tuned.save(tmp_path / "a.safetensors")
    again = MODELS["ViT"]()
    again.load_state_dict(weights)
    again = ivtuning.attach(again, LoRA(rank=4))
    with serve() as server:
        server.files["/a.safetensors"] = (tmp_path / "a.safetensors").read_bytes()
        again.load(server.url + "/a.safetensors")
    assert all(torch.equal(value, tuned.state_dict()[key]) for key, value in again.state_dict().items())


def test_files_of_other_shapes_and_other_kinds_are_refused(tmp_path):
    model = MODELS["ViT"]()
    weights = copy.deepcopy(model.state_dict())
    ivtuning.attach(model, LoRA(rank=4)).save(tmp_path / "a.safetensors")
    other = MODELS["ViT"]()
    other.load_state_dict(weights)
    other = ivtuning.attach(other, LoRA(rank=8))
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(UserError, match=r"do not fit .*lora_A: file \(4, 24\), model \(8, 24\)"):
        other.load(tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:200])
    with pytest.raises(UserError, match="truncated, damaged"):
        other.load(tmp_path / "b.safetensors")
    with pytest.raises(UserError, match=r"no file .*none\.safetensors"):
        other.load(tmp_path / "none.safetensors")
    with pytest.raises(UserError, match=r"ends in \.safetensors"):
        other.save(tmp_path / "a.pth")
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_merged_lora_computes_the_same_and_unloads_as_a_plain_model(make):
    tuned = ivtuning.attach(make(), LoRA(rank=4)).eval()
    disturb(tuned.tuner)
    visible, _ = images(tuned.model)
    with torch.no_grad():
        before = tuned(visible)
        tuned.merge()
        torch.testing.assert_close(tuned(visible), before, rtol=1e-4, atol=1e-4)
        model = tuned.unload()
        torch.testing.assert_close(model(visible), before, rtol=1e-4, atol=1e-4)
        ivtuning.attach(model, Mona(hidden_dim=8))


def test_pairs_of_one_infrared_channel_and_copies_of_the_model():
    tuned = ivtuning.attach(MODELS["ViT"](), IVTuning(hidden_dim=8), SumStem(from_visible=True)).eval()
    visible, infrared = images(tuned.model)
    twin = copy.deepcopy(tuned)
    with torch.no_grad():
        one = tuned(visible, infrared[:, :1])
        assert torch.equal(one, tuned(visible, infrared[:, :1].expand(-1, 3, -1, -1)))
        disturb(tuned.tuner)
        assert torch.equal(twin(visible, infrared[:, :1]), one)
        assert not torch.equal(tuned(visible, infrared[:, :1]), one)
    assert torch.equal(tuned.stem.embed.proj.weight, tuned.model.patch_embed.proj.weight)


@pytest.mark.parametrize("rate", [{"drop_path_rate": 0.9}, {"pos_drop_rate": 0.5}], ids=str)
def test_frozen_parts_train_without_drop_path_and_dropout(rate):
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, embed_dim=24, depth=3, num_heads=2, **rate, **TINY
    )
    tuned = ivtuning.attach(model, LoRA(rank=4)).train()
    visible, _ = images(model)
    assert torch.equal(tuned(visible), tuned(visible))
    assert tuned.num_features == 24


def test_a_stem_trains_on_a_model_that_was_frozen():
    model = MODELS["ViT"]().requires_grad_(False)
    tuned = ivtuning.attach(model, Mona(hidden_dim=8), SumStem())
    assert all(p.requires_grad for p in tuned.stem.parameters())
    assert not any(p.requires_grad for p in tuned.unload().patch_embed.parameters())
    assert all(p.requires_grad for p in ivtuning.attach(MODELS["ViT"](), LoRA(rank=4)).unload().parameters())


def test_what_fails_leaves_the_model_as_it_was():
    model = MODELS["ViT"]()
    before = [type(block) for block in model.blocks]
    for tuner in (TUNERS["Partial"](n=9), TUNERS["Partial"](n=9)):  # the second time in the same words
        with pytest.raises(UserError, match="tuner.n=9: the trunk uses 3 blocks"):
            ivtuning.attach(model, tuner)
    assert [type(block) for block in model.blocks] == before and not model.patch_embed._forward_hooks
    assert all(p.requires_grad for p in model.parameters())
    distilled = timm.create_model("deit_tiny_distilled_patch16_224", depth=1, embed_dim=24, num_heads=2)
    with pytest.raises(UserError, match="has tuple of classifiers"):
        ivtuning.attach(distilled, LoRA(rank=4))


@pytest.mark.parametrize(
    ("tuner", "other"),
    [
        (LoRA(rank=4, alpha=8), LoRA(rank=4, alpha=4)),
        (TUNERS["AdaptFormer"](scale=0.1), TUNERS["AdaptFormer"](scale=0.2)),
    ],
    ids=["alpha", "scale"],
)
def test_options_that_no_shape_shows_are_compared(tuner, other, tmp_path):
    ivtuning.attach(MODELS["ViT"](), tuner).save(tmp_path / "a.safetensors")
    torch.manual_seed(0)
    with pytest.raises(UserError, match="made with (options|base)"):
        ivtuning.attach(MODELS["ViT"](), other).load(tmp_path / "a.safetensors")


def test_norms_and_biases_of_timms_own_are_found():
    norms = timm.create_model(
        "vit_tiny_patch16_224", embed_dim=24, depth=1, num_heads=2, norm_layer=timm.layers.RmsNorm
    )
    assert ivtuning.attach(norms, TUNERS["NormTuning"]()).count()["selected"] == 3 * 24
    fused = ivtuning.attach(MODELS["EVA-02"](), TUNERS["BitFit"]())
    assert all(block.attn.q_bias.requires_grad and block.attn.v_bias.requires_grad for block in fused.blocks)


class Odd(nn.Module):
    pass


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (lambda: timm.create_model("resnet18"), (LoRA(rank=4),), "ResNet has no block"),
        (lambda: timm.create_model("vit_tiny_patch16_224", features_only=True), (LoRA(),), "features_only"),
        (Odd, (LoRA(rank=4),), "Odd has no block"),
        (
            lambda: timm.create_model("vit_tiny_patch16_224", depth=1, patch_drop_rate=0.5),
            (LoRA(rank=4),),
            "patch_drop_rate=0",
        ),
        (MODELS["ViT"], ("LoRA",), "tuner='LoRA' is not a tuner: give one of .*LoRA"),
        (MODELS["ViT"], (LoRA,), "is not a tuner"),
        (MODELS["ViT"], (LoRA(rank=4), "SumStem"), "is not a stem"),
        (MODELS["ViT"], (IVTuning(), InfraredOnly()), "ignores visible"),
    ],
)
def test_what_cannot_be_attached_is_refused(make, arguments, message):
    with pytest.raises(UserError, match=message):
        ivtuning.attach(make(), *arguments)


def test_wrong_calls_are_refused():
    tuned = ivtuning.attach(MODELS["ViT"](), LoRA(rank=4))
    visible, infrared = images(tuned.model)
    with pytest.raises(UserError, match="attached already"):
        ivtuning.attach(tuned.model, LoRA(rank=4))
    with pytest.raises(UserError, match="ignores infrared"):
        tuned(visible, infrared)
    pairs = ivtuning.attach(MODELS["ViT"](), IVTuning(hidden_dim=8))
    with pytest.raises(UserError, match="needs two images"):
        pairs(visible)
    with pytest.raises(UserError, match="register the pair to one size"):
        pairs(visible, infrared[..., :32])
    pairs.model.set_grad_checkpointing(True)
    with pytest.raises(UserError, match=r"set_grad_checkpointing\(False\)"):
        pairs.train()
