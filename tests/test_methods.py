"""Methods: which stem and tuner each one is, and what `method=<name>` changes in a config."""

from __future__ import annotations

import pytest
from detectron2.config import instantiate
from omegaconf import OmegaConf

from ivtuning.config import load_config
from ivtuning.errors import UserError
from ivtuning.methods import METHODS
from ivtuning.tuning import TUNERS, Frozen, Full, IVTuning, LoRA, Mona
from ivtuning.tuning.stems import InfraredOnly, PromptStem, SumStem, VisibleOnly

VITDET, VISIBLE = "configs/M3FD/vitdet_ivtuning_b.py", "configs/COCO/cascade_mask_rcnn_mona_swin_b.py"
NANO = "configs/synthetic/ivtuning.py"


def plugins(cfg) -> tuple[type, type]:
    net = cfg.model.backbone.net
    return type(instantiate(net.stem)), type(instantiate(net.tuner))


def test_every_tuner_has_a_method():
    assert set(METHODS) == {"visible", "infrared", "both", "full_visible", "parity", *TUNERS} - {"Frozen"}
    for name, method in METHODS.items():
        assert tuple(map(type, method.plugins())) == (method.stem, method.tuner)
        assert name not in TUNERS or method.tuner is TUNERS[name]


@pytest.mark.parametrize(
    "name, stem, tuner",
    [
        ("visible", VisibleOnly, Frozen),
        ("infrared", InfraredOnly, Frozen),
        ("both", SumStem, Frozen),
        ("IVTuning", PromptStem, IVTuning),
        ("full", SumStem, Full),
        ("LORA", SumStem, LoRA),
        ("mona", SumStem, Mona),
        ("Full_Visible", VisibleOnly, Full),
        ("parity", PromptStem, IVTuning),
    ],
)
def test_a_method_sets_stem_and_tuner(name, stem, tuner):
    assert plugins(load_config(VITDET, [f"method={name}"])) == (stem, tuner)


@pytest.mark.parametrize("changes", [["method=LoRA", "model.backbone.net.tuner.rank=3"]] * 2)
def test_a_method_applies_before_other_overrides(changes):
    for order in (changes, changes[::-1]):
        assert load_config(VITDET, order).model.backbone.net.tuner["rank"] == 3
    named = ["model.backbone.net.stem=VisibleOnly", *changes]
    assert plugins(load_config(VITDET, named)) == (VisibleOnly, LoRA)


def test_plugins_of_the_method_keep_their_options(tmp_path):
    file = tmp_path / "x.py"
    file.write_text(
        "from detectron2.config import LazyCall as L\n"
        "from ivtuning.tuning.stems import PromptStem\n"
        "from ivtuning.tuning import IVTuning\n"
        "net = dict(stem=L(PromptStem)(norm='GN'), tuner=L(IVTuning)(prompt_dim=4))\n"
        "model = dict(backbone=dict(net=net))\n"
    )
    net = load_config(file, ["method=ivtuning"]).model.backbone.net
    assert (net.stem.norm, net.tuner.prompt_dim) == ("GN", 4)
    net = load_config(file, ["method=Full"]).model.backbone.net
    assert "norm" not in net.stem and "prompt_dim" not in net.tuner


def test_a_config_keeps_the_stem_that_it_has_chosen_for_its_tuner():
    file = "configs/MSRS/vit_t_ivtuning.py"
    for method, stem in {"IVTuning": SumStem, "parity": PromptStem, "infrared": InfraredOnly}.items():
        assert plugins(load_config(file, [f"method={method}"]))[0] is stem
    assert load_config(file, ["method=IVTuning"]).model.backbone.net.tuner.hidden_dim == 12
    full = [f"model.backbone.net.{plugin}" for plugin in ("tuner=Full", "stem=VisibleOnly")]
    assert plugins(load_config(file, full)) == (VisibleOnly, Full)


@pytest.mark.parametrize(
    "file, rates",
    [
        (NANO, {"IVTuning": 3, "Mona": 3, "Full": 1, "BitFit": 1}),
        ("configs/M3FD/dino_ivtuning_swin_l.py", {"Full": 0.1}),
    ],
)
def test_without_adapters_all_of_the_trunk_has_one_rate(file, rates):
    for method, rate in rates.items():
        assert load_config(file, [f"method={method}"]).optimizer.params.added_lr_factor == rate
    changed = load_config(file, ["method=Full", "optimizer.params.added_lr_factor=7"])
    assert changed.optimizer.params.added_lr_factor == 7


def test_a_config_states_the_options_of_other_methods(tmp_path):
    file = "configs/MSRS/vit_t_ivtuning.py"
    sizes = {
        "IVTuning": ("hidden_dim", 12),
        "Mona": ("hidden_dim", 16),
        "LoRA": ("rank", 24),
        "parity": ("hidden_dim", 12),
    }
    for method, (key, value) in sizes.items():
        assert load_config(file, [f"method={method}"]).model.backbone.net.tuner[key] == value
    changed = load_config(file, ["method=Mona", "model.backbone.net.tuner.hidden_dim=8"])
    assert changed.model.backbone.net.tuner.hidden_dim == 8
    assert "hidden_dim" not in load_config(file, ["method=Full"]).model.backbone.net.tuner
    (tmp_path / "x.py").write_text(
        "from ivtuning.config import load_config\n"
        f"model = load_config({file!r}).model\nmethods = dict(Monna=dict(hidden_dim=8))\n"
    )
    with pytest.raises(UserError, match="no method 'Monna'; did you mean 'Mona'"):
        load_config(tmp_path / "x.py", ["method=Mona"])


def test_parity_is_the_released_code():
    net = load_config(VITDET, ["method=parity"]).model.backbone.net
    assert (net.tuner.preset, net.frozen_eval) == ("vitdet_v1", False)
    assert (net.stem.zero_init, net.stem.from_visible) == (False, False)
    other = load_config("configs/M3FD/dino_ivtuning_swin_l.py", ["method=parity"]).model.backbone.net
    assert other.tuner.preset == "parity"


def test_three_channels_keep_their_stem():
    cfg = load_config(VISIBLE, ["method=full"])
    assert plugins(cfg) == (VisibleOnly, Full)
    assert cfg.train.output_dir == "output/COCO/cascade_mask_rcnn_mona_swin_b-Full"
    for name in ("visible", "infrared", "parity", "full_visible", "IVTuning"):
        with pytest.raises(UserError, match=f"method {name} is for pairs.*tuner=Frozen"):
            load_config(VISIBLE, [f"method={name}"])


def test_a_saved_config_takes_a_method(tmp_path):
    from detectron2.config import LazyConfig

    LazyConfig.save(load_config(NANO, ["model.backbone.net.tuner.norm=GN"]), str(tmp_path / "config.yaml"))
    assert load_config(tmp_path / "config.yaml", ["method=IVTuning"]).model.backbone.net.tuner.norm == "GN"
    assert plugins(load_config(tmp_path / "config.yaml", ["method=Full"])) == (SumStem, Full)


@pytest.mark.parametrize("line, words", [("1 / 0", "cannot be imported"), ("", "nothing to import at")])
def test_a_saved_config_with_a_class_that_is_missing_is_refused(tmp_path, monkeypatch, line, words):
    from detectron2.config import LazyConfig

    (tmp_path / "own_tuner_of_a_run.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    cfg = load_config(NANO)
    cfg.model.backbone.net.tuner["_target_"] = "own_tuner_of_a_run.Mine"
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    with pytest.raises(UserError, match=words) as error:
        load_config(tmp_path / "config.yaml", ["method=Full"])
    assert "own_tuner_of_a_run.Mine" in str(error.value)


def test_nothing_else_changes():
    base, full = (load_config(NANO, changes) for changes in ([], ["method=Full"]))
    for cfg in (base, full):
        del cfg.model.backbone.net.stem, cfg.model.backbone.net.tuner, cfg.train.output_dir
        del cfg.optimizer.params.added_lr_factor
    assert OmegaConf.to_container(base) == OmegaConf.to_container(full)


@pytest.mark.parametrize(
    "override, words",
    [
        ("method=Fulll", "no method 'Fulll'; did you mean 'Full'"),
        ("method=lorra", "did you mean 'LoRA'"),
        ("method=", "no method ''"),
        ("method=12", "no method '12'; there are visible, infrared, both, IVTuning"),
        ("method.x=1", "the config has no 'method'"),
    ],
)
def test_unknown_methods_are_reported(override, words):
    with pytest.raises(UserError) as error:
        load_config(VITDET, [override])
    assert words in str(error.value) and override in str(error.value)


def test_a_config_without_trunk_is_reported(tmp_path):
    (tmp_path / "x.py").write_text("train = dict(max_iter=1)\n")
    with pytest.raises(UserError, match="no trunk at model.backbone.net"):
        load_config(tmp_path / "x.py", ["method=Full"])
