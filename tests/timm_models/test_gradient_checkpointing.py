"""Gradient checkpointing of timm's, on models with a tuner."""

from __future__ import annotations

import pytest
import timm
import torch
from helpers.timm_models import MODELS, disturb, images, tuner_of

import ivtuning
from ivtuning.errors import UserError
from ivtuning.timm_models import TunedModel
from ivtuning.tuning import TUNERS, IVTuning, Mona


def check_gradients(tuned: TunedModel) -> None:
    """Assert that all gradients are the same with and without gradient checkpointing."""
    model, gradients = tuned.model, []
    pair = images(model) if tuned.tuner.needs else images(model)[:1]
    for on in (False, True):
        model.set_grad_checkpointing(on)
        tuned.zero_grad()
        torch.manual_seed(0)  # of dropout
        tuned(*pair).square().mean().backward()
        gradients.append([p.grad for p in tuned.trained_parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["ViT", "Swin"])
@pytest.mark.parametrize("name, options", [("Mona", {}), ("IVTuning", dict(norm="GN"))])
def test_gradient_checkpointing_gives_the_same_gradients(kind, name, options):
    """With dropout as well: recomputed blocks drop what they dropped before."""
    tuned = ivtuning.attach(MODELS[kind](), TUNERS[name](hidden_dim=8, dropout=0.5, **options)).train()
    disturb(tuned.tuner)
    check_gradients(tuned)


def test_gradient_checkpointing_that_comes_late_is_refused():
    tuned = ivtuning.attach(MODELS["ViT"](), IVTuning(hidden_dim=8)).train()
    tuned.model.set_grad_checkpointing(True)
    with pytest.raises(UserError, match="does not go with timm's gradient checkpointing"):
        tuned(*images(tuned.model))
    with torch.no_grad():
        tuned(*images(tuned.model))


def test_gradient_checkpointing_knows_the_sizes_of_several_passes():
    gradients = []
    for on in (False, True):
        torch.manual_seed(0)
        model = timm.create_model(
            "vit_tiny_patch16_224", img_size=64, dynamic_img_size=True, embed_dim=24, depth=2, num_heads=2
        )
        model.set_grad_checkpointing(on)
        tuned = ivtuning.attach(model, Mona(hidden_dim=8, dropout=0.0)).train()
        disturb(tuned.tuner)
        wide, high = torch.randn(1, 3, 32, 64), torch.randn(1, 3, 64, 32)
        (tuned(wide).square().sum() + tuned(high).square().sum()).backward()
        gradients.append([p.grad for p in tuned.tuner.parameters()])
        assert model.grad_checkpointing is on
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("kind", ["ViT", "Swin", "EVA-02"])
@pytest.mark.parametrize("name", ["IVTuning", "LoRA"])
def test_gradients_in_evaluation_are_the_same_with_gradient_checkpointing(kind, name):
    tuned = ivtuning.attach(MODELS[kind](), tuner_of(name)).eval()
    disturb(tuned)
    check_gradients(tuned)


def test_training_a_swin_with_batch_norms_refuses_gradient_checkpointing():
    tuned = ivtuning.attach(MODELS["Swin"](), IVTuning(hidden_dim=8)).eval()
    tuned.model.set_grad_checkpointing(True)
    with pytest.raises(UserError, match="does not go with timm's gradient checkpointing"):
        tuned.train()
