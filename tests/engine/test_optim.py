"""Which learning rate and decay every parameter gets."""

from __future__ import annotations

import pytest
from helpers.tiny import detector

from ivtuning.backbones.trunk import find_trunk
from ivtuning.config import load_config
from ivtuning.engine.optim import build_optimizer, param_groups
from ivtuning.errors import UserError


def rates(model, **kwargs) -> dict[str, tuple[float, float]]:
    groups = param_groups(model, lr=1.0, weight_decay=0.1, **kwargs)
    settings = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert len(settings) == len(named) == sum(len(g["params"]) for g in groups)
    return {n: settings[id(p)] for n, p in named.items()}


def test_no_decay_on_vectors_and_position_tables():
    for name, (_, decay) in rates(detector("model.backbone.net.tuner=Full")).items():
        last = name.split(".")[-1]
        vector = last in ("bias", "gamma", "beta", "pos_embed", "rel_pos_h", "rel_pos_w") or "norm" in name
        assert decay == (0.0 if vector else 0.1), name


def test_layer_decay_touches_the_trunk_alone():
    full = rates(detector("model.backbone.net.tuner=Full"), layer_decay=0.5)
    assert full["backbone.net.patch_embed.proj.weight"][0] == 0.5**5
    assert full["backbone.net.blocks.0.mlp.fc1.weight"][0] == 0.5**4
    assert full["backbone.net.blocks.3.mlp.fc1.weight"][0] == 0.5
    assert full["backbone.net.stem.embed.proj.weight"][0] == 1.0
    assert full["backbone.simfp_3.0.weight"][0] == 1.0
    tuned = rates(detector(), layer_decay=0.5)
    assert {rate for rate, _ in tuned.values()} == {1.0}


def test_added_parts_and_trunk_have_factors_of_their_own():
    tuned = rates(detector("model.backbone.net.tuner=Full"), added_lr_factor=3.0, trunk_lr_factor=0.1)
    for name, (rate, _) in tuned.items():
        inside = name.removeprefix("backbone.net.")
        expected = 1.0 if inside == name else 3.0 if inside.startswith(("stem.", "tuner.")) else 0.1
        assert rate == expected, name


def test_nothing_to_train_is_an_error():
    model = detector().requires_grad_(False)
    with pytest.raises(UserError, match="nothing in the model trains"):
        param_groups(model, 1.0, 0.1)


def test_the_configs_optimizer_gets_the_models_groups():
    cfg, model = load_config("configs/synthetic/ivtuning.py"), detector()
    place = find_trunk(model)
    optimizer = build_optimizer(cfg.optimizer, model, place)
    groups = param_groups(model, 1e-3, 0.05, added_lr_factor=3.0, place=place)
    assert [g["lr"] for g in optimizer.param_groups] == [g["lr"] for g in groups]
    assert [list(map(id, g["params"])) for g in optimizer.param_groups] == [
        list(map(id, g["params"])) for g in groups
    ]
    assert "model" not in cfg.optimizer.params  # a config holds no model


def test_groups_of_another_function_need_no_trunk():
    """detectron2's own function takes the model alone."""
    target = "detectron2.solver.build.get_default_optimizer_params"
    cfg = load_config("configs/synthetic/ivtuning.py").optimizer
    cfg.params = {"_target_": target, "base_lr": "${..lr}"}
    model = detector()
    optimizer = build_optimizer(cfg, model, find_trunk(model))
    trained = [p for p in model.parameters() if p.requires_grad]
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(trained)
