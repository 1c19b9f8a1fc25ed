"""Models of timm's with a tuner: what is attached, merged or unloaded already, types, copies."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from helpers.timm_models import MODELS, disturb, images

import ivtuning
from ivtuning.errors import UserError
from ivtuning.tuning import IVTuning, LoRA, Mona
from ivtuning.tuning.base import PassAdapters
from ivtuning.tuning.stems import SumStem


class Prepared(Mona):
    """Prepares a pass by a product with `factor`, without any need of pairs."""

    factor = 1.0

    def begin(self, x):
        factor = self.factor

        class Scaled(type(self.blocks[0])):
            def on_mlp(self, y, x):
                return factor * y

        blocks = [copy.copy(block) for block in self.blocks]
        for block in blocks:
            block.__class__ = Scaled
        return PassAdapters(blocks)


def test_begin_is_called_for_every_tuner():
    tuned = ivtuning.attach(MODELS["ViT"](), Prepared(hidden_dim=8)).eval()
    disturb(tuned.model)
    visible, _ = images(tuned.model)
    with torch.no_grad():
        before = tuned(visible)
        tuned.tuner.factor = 2.0
        assert not torch.allclose(tuned(visible), before, atol=1e-3)


def test_a_tuner_that_is_attached_is_refused_and_stays_as_it_is():
    tuned = ivtuning.attach(MODELS["ViT"](), Mona(hidden_dim=8), SumStem()).eval()
    disturb(tuned.tuner)
    pair = images(tuned.model)
    with torch.no_grad():
        before = tuned(*pair)
        for model in (MODELS["ViT"](), tuned.model):
            for arguments in ((tuned.tuner, SumStem()), (Mona(hidden_dim=8), tuned.stem)):
                with pytest.raises(UserError, match=r"this (Mona|SumStem) is attached to a model already"):
                    ivtuning.attach(model, *arguments)
        fresh = Mona(hidden_dim=8)
        with pytest.raises(UserError, match="model is attached already: call unload"):
            ivtuning.attach(tuned.model, fresh)
        assert torch.equal(tuned(*pair), before)
    ivtuning.attach(tuned.unload(), fresh)


def test_a_merged_lora_is_guarded():
    tuned = ivtuning.attach(MODELS["ViT"](), LoRA(rank=4)).eval()
    disturb(tuned.tuner)
    weights = copy.deepcopy(tuned.state_dict())
    tuned.merge()
    for refused in (
        lambda: tuned.save("a.safetensors"),
        tuned.trained_state,
        lambda: tuned.load_state_dict(weights),
        lambda: tuned.model.load_state_dict(tuned.model.state_dict()),
        tuned.train,
    ):
        with pytest.raises(UserError, match=r"merged into the base: call unmerge_adapters\(\) first, or"):
            refused()
    assert not any(module.training for module in tuned.modules())
    tuned.unmerge()
    assert all(torch.equal(t, weights[n]) for n, t in tuned.state_dict().items())
    tuned.load_state_dict(weights)
    tuned.merge()
    model = tuned.unload()
    model.load_state_dict(model.state_dict())


def test_added_parts_have_the_type_of_the_model():
    tuned = ivtuning.attach(MODELS["ViT"]().double(), Mona(hidden_dim=8), SumStem()).eval()
    assert tuned(*(image.double() for image in images(tuned.model))).dtype == torch.float64
    for half in (torch.float16, torch.bfloat16):
        model = MODELS["ViT"]().to(half)
        with pytest.raises(UserError, match=f"weights are {half}".replace("torch.", "") + ".*torch.autocast"):
            ivtuning.attach(model, LoRA(rank=4))
        ivtuning.attach(model.float(), LoRA(rank=4))


def test_unloading_twice_and_in_training_mode():
    model = MODELS["ViT"]()
    tuned = ivtuning.attach(model, LoRA(rank=4)).train()
    assert not model.blocks.training
    assert tuned.unload() is model and all(module.training for module in model.modules())
    model.requires_grad_(False)
    again = ivtuning.attach(model, LoRA(rank=4)).eval()
    assert tuned.unload() is model  # changes nothing: the model has another owner
    assert torch.equal(again(images(model)[0]), again(images(model)[0])) and not model.blocks.training
    again.unload()
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["ViT", "Swin", "EVA-02"])
def test_models_are_pickled(kind):
    tuned = ivtuning.attach(MODELS[kind](), IVTuning(hidden_dim=8)).eval()
    disturb(tuned.tuner)
    assert len({type(block) for block in tuned.blocks}) == 1
    file = io.BytesIO()
    torch.save(tuned, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    pair = images(tuned.model)
    with torch.no_grad():
        assert torch.equal(again(*pair), tuned(*pair))
        disturb(again.tuner)
        assert not torch.equal(again(*pair), tuned(*pair))
