"""What every tuning method must do, on every trunk."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from helpers.equations import reference
from helpers.tiny import TRUNKS, swin, vitdet
from helpers.tuned import (
    ADDING,
    SELECTING,
    base,
    build,
    by_adding,
    by_every_tuner,
    by_selecting,
    frozen,
    images,
    on_every_trunk,
    outputs,
    wake,
)
from torch import nn

from ivtuning import tuning
from ivtuning.checkpoint import load_adapter, save_adapter
from ivtuning.checkpoint.adapter import read_metadata
from ivtuning.config import load_config
from ivtuning.errors import UserError
from ivtuning.tuning import TUNERS, LoRA, Partial
from ivtuning.tuning.stems import InfraredOnly, PromptStem, VisibleOnly


def adamw(net, steps: int = 3, seed: int = 2):
    """Some steps on a loss that every output matters to."""
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0)
    net.train()
    for i in range(steps):
        optimizer.zero_grad()
        maps = list(net(images(seed + i)).values())
        torch.manual_seed(seed + i)
        sum((m * torch.randn_like(m)).sum() for m in maps).backward()
        yield
        optimizer.step()


def train(net, steps: int, seed: int):
    for _ in adamw(net, steps, seed):
        pass
    return net.eval()


def test_the_matrix_is_whole():
    assert set(TUNERS) == {*ADDING, *SELECTING, "Frozen"}
    assert all(getattr(tuning, name) is cls for name, cls in TUNERS.items())


def test_tuning_does_not_import_detectron2():
    for file in Path(tuning.__file__).parent.rglob("*.py"):
        assert not re.search(r"^\s*(import|from) detectron2", file.read_text(), re.MULTILINE), file


@by_every_tuner
def test_a_name_on_the_command_line_gives_the_tuner(tuner):
    config = load_config("configs/synthetic/ivtuning.py", [f"model.backbone.net.tuner={tuner}"])
    with torch.device("meta"):
        assert type(instantiate(config.model.backbone.net).tuner) is TUNERS[tuner]


@on_every_trunk
@by_adding
@pytest.mark.parametrize("training", [False, True])
def test_zeroed_is_the_frozen_trunk(trunk, tuner, training):
    net, plain = wake(build(trunk, tuner)).train(training), frozen(trunk).eval()
    assert (outputs(net) - outputs(plain)).abs().max() > 1e-3
    net.tuner.reset_to_identity()
    if tuner == "IVTuning":
        nn.init.zeros_(net.stem.generator.out.weight)
        nn.init.zeros_(net.stem.generator.out.bias)
    assert torch.equal(outputs(net), outputs(plain))


@on_every_trunk
def test_lora_starts_as_the_frozen_trunk(trunk):
    assert torch.equal(outputs(build(trunk, "LoRA").eval()), outputs(frozen(trunk).eval()))


@on_every_trunk
@pytest.mark.parametrize("tuner", ["IVTuning", "Mona", "Adapter", "AdaptFormer"])
def test_zero_init_starts_as_the_frozen_trunk(trunk, tuner):
    stem = PromptStem() if tuner == "IVTuning" else VisibleOnly()
    net = TRUNKS[trunk](stem, TUNERS[tuner](hidden_dim=8, zero_init=True)).eval()
    plain = frozen(trunk).eval()
    plain.load_state_dict(base(net))
    assert torch.equal(outputs(net), outputs(plain))


@on_every_trunk
@by_every_tuner
def test_exactly_what_trains_moves(trunk, tuner):
    net = build(trunk, tuner)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    for _ in adamw(net):
        for name, parameter in net.named_parameters():
            # What trains and gets no gradient would stop distributed training.
            assert (parameter.grad is not None) == parameter.requires_grad, name
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name
    assert any(p.requires_grad for p in net.parameters())


@on_every_trunk
@by_every_tuner
def test_two_adapters_swap_in_a_running_model(trunk, tuner, tmp_path):
    files, expected = [tmp_path / f"{name}.safetensors" for name in "ab"], []
    for seed, file in enumerate(files):
        net = train(build(trunk, tuner, seed), steps=1, seed=10 * seed)
        save_adapter(net, file)
        expected.append(outputs(net))
    assert not torch.equal(*expected)
    running = build(trunk, tuner, seed=5).eval()
    for i in (0, 1, 0):
        load_adapter(running, files[i])
        assert torch.equal(outputs(running), expected[i])
    assert read_metadata(files[0])["tuner"]["name"] == tuner


@on_every_trunk
@by_every_tuner
def test_names_of_the_base_stay_and_added_ones_have_their_place(trunk, tuner):
    state, plain = build(trunk, tuner).state_dict(), frozen(trunk).state_dict()
    added = {n for n in state if n.startswith(("stem.", "tuner."))}
    assert state.keys() - added == plain.keys()
    assert any(n.startswith("tuner.") for n in added) == (tuner in ADDING)


@on_every_trunk
@by_adding
def test_dropout_acts_in_training_alone(trunk, tuner):
    net = wake(build(trunk, tuner)).eval()
    assert torch.equal(outputs(net), outputs(net))
    net.train()
    assert torch.equal(outputs(net), outputs(net)) == ("dropout" not in ADDING[tuner])


@on_every_trunk
@by_adding
@pytest.mark.parametrize("training", [False, True])
def test_disabled_is_the_frozen_trunk(trunk, tuner, training):
    net = wake(build(trunk, tuner)).train(training)
    expected = outputs(frozen(trunk).eval())
    state, names = copy.deepcopy(net.state_dict()), [n for n, _ in net.named_parameters()]
    with net.disable_adapters():
        assert torch.equal(outputs(net), expected)
        # Infrared is not looked at, nor needed.
        assert torch.equal(outputs(net, images()[:, :3]), expected)
        assert [n for n, _ in net.named_parameters()] == names
    assert all(torch.equal(t, state[n]) for n, t in net.state_dict().items())  # running statistics too
    assert (outputs(net) - expected).abs().max() > 1e-3


@on_every_trunk
@by_adding
def test_disabling_nests_and_survives_errors(trunk, tuner):
    net, expected = wake(build(trunk, tuner)).eval(), outputs(frozen(trunk).eval())
    before = outputs(net)
    with net.disable_adapters():
        with net.disable_adapters():
            assert torch.equal(outputs(net), expected)
        assert torch.equal(outputs(net), expected)
    assert torch.equal(outputs(net), before)
    with pytest.raises(KeyError), net.disable_adapters(), net.disable_adapters():
        raise KeyError
    assert torch.equal(outputs(net), before)


@on_every_trunk
@by_selecting
def test_a_changed_base_cannot_be_disabled(trunk, tuner):
    net = build(trunk, tuner)
    with pytest.raises(UserError, match=f"{tuner} trains the trunk's own weights"), net.disable_adapters():
        pass
    # Whatever the flags say at the moment.
    with pytest.raises(UserError, match="tuner=Frozen"), net.requires_grad_(False).disable_adapters():
        pass


def test_a_tuner_and_a_stem_belong_to_one_trunk():
    net = wake(build("ViTDet", "LoRA")).eval()
    before, widths = outputs(net), [24] * len(net.blocks)
    for stem, tuner, name in ((VisibleOnly(), net.tuner, "LoRA"), (net.stem, LoRA(rank=2), "VisibleOnly")):
        with pytest.raises(UserError, match=rf"this {name} is attached .*give a new one, as {name}\("):
            vitdet(stem, tuner)
        with pytest.raises(UserError, match=f"this {name} is attached"):
            net.attach(stem, tuner, widths)
    with pytest.raises(UserError, match="this LoRA is attached"):
        net.tuner.attach(widths)
    with pytest.raises(UserError, match="this PromptStem is attached"):
        build("ViTDet", "IVTuning").stem.attach(net.patch_embed)
    assert torch.equal(outputs(net), before)


def test_a_tuner_that_is_replaced_has_no_hooks_left():
    net = wake(build("ViTDet", "LoRA")).eval()
    net.attach(VisibleOnly(), LoRA(rank=2), [24] * len(net.blocks))
    assert torch.equal(outputs(net), outputs(frozen("ViTDet").eval()))


def test_disabling_leaves_a_stem_without_parameters_as_it_is():
    net = build("ViTDet", "Mona", stem=InfraredOnly).eval()
    with net.disable_adapters():
        assert torch.equal(outputs(net), outputs(frozen("ViTDet").eval(), images()[:, 3:]))
    net = build("ViTDet", "Frozen").eval()
    with net.disable_adapters():
        assert torch.equal(outputs(net), outputs(frozen("ViTDet").eval()))


class Scaled(nn.Module):
    """Stands in for drop-path, and tells what is added before it from what is added after."""

    def __init__(self, kept: float):
        super().__init__()
        self.kept = kept

    def forward(self, x):
        return self.kept * x


@on_every_trunk
@pytest.mark.parametrize("tuner", [*ADDING, *SELECTING])
def test_whole_trunks_are_their_equations(trunk, tuner):
    net = wake(build(trunk, tuner)).eval()
    for i, block in enumerate(net.blocks):
        block.drop_path1, block.drop_path2 = Scaled(0.5 + 0.1 * i), Scaled(0.9 - 0.1 * i)
    expected = reference(net, images())
    with torch.no_grad():
        maps = net(images())
    assert maps.keys() == expected.keys()
    for name, map in maps.items():
        assert torch.allclose(map, expected[name], rtol=1e-4, atol=1e-5), name


@on_every_trunk
def test_partial_takes_the_last_blocks(trunk):
    for n in (1, 2, len(frozen(trunk).blocks)):
        net = TRUNKS[trunk](VisibleOnly(), Partial(n))
        trained = [all(p.requires_grad for p in block.parameters()) for block in net.blocks]
        assert trained == [False] * (len(net.blocks) - n) + [True] * n
        inside = sum(p.numel() for block in list(net.blocks)[-n:] for p in block.parameters())
        assert sum(p.numel() for p in net.parameters() if p.requires_grad) == inside


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: vitdet(tuner=Partial(5)), "tuner.n=5: the trunk uses 4 blocks"),
        (lambda: vitdet(tuner=Partial(0)), "tuner.n=0"),
        (lambda: LoRA(rank=0), "tuner.rank=0"),
        (lambda: LoRA(targets=["q", "w"]), "tuner.targets=.*give some of q, k, v"),
        (lambda: LoRA(targets=[]), "tuner.targets"),
        (lambda: LoRA(rank="many"), "tuner.rank='many': give a whole number from 1"),
        (lambda: LoRA(alpha="big"), "tuner.alpha='big': give a number"),
        (lambda: LoRA(alpha=float("nan")), "tuner.alpha=nan: give a number"),
        (lambda: LoRA(alpha=True), "tuner.alpha=True: give a number"),
        (lambda: vitdet(tuner=Partial(1.5)), "tuner.n=1.5: give a whole number from 1"),
        (lambda: TUNERS["Mona"](hidden_dim=0), "tuner.hidden_dim=0: give a whole number from 1"),
        (
            lambda: TUNERS["Mona"](kernels=5).build_adapters(8),
            r"tuner.kernels=5: give odd sizes.*as \[3,5,7\]",
        ),
        (lambda: TUNERS["Mona"](kernels=["a"]).build_adapters(8), "tuner.kernels"),
        (lambda: TUNERS["Adapter"](hidden_dim=16.5), "tuner.hidden_dim=16.5: give a whole number"),
        (lambda: TUNERS["Adapter"](dropout=1), "tuner.dropout=1: give a rate from 0 to below 1"),
        (lambda: TUNERS["AdaptFormer"](scale="x"), "tuner.scale='x': give a number"),
        (lambda: TUNERS["IVTuning"](hidden_dim=3), "tuner.hidden_dim=3: give a whole number from 4"),
        (lambda: TUNERS["IVTuning"](prompt_dim=0), "tuner.prompt_dim=0"),
        (lambda: TUNERS["IVTuning"](dropout=-0.1), "tuner.dropout=-0.1"),
        (lambda: PromptStem(hidden_dim=2), "stem.hidden_dim=2: give a whole number from 4"),
        (
            lambda: vitdet(tuner="Partial(2)"),
            r"tuner='Partial\(2\)' is not a tuner: .*Mona.*tuner.<option>=<value>",
        ),
        (lambda: swin(stem="Visible"), "stem='Visible' is not a stem: .*VisibleOnly.*stem.<option>=<value>"),
        (lambda: swin(stem=VisibleOnly), "stem=.* is not a stem"),
        (lambda: TUNERS["IVTuning"](backend="fuse"), "tuner.backend='fuse': give auto.*did you mean 'fused'"),
        (lambda: TUNERS["IVTuning"](norm="LN"), "tuner.norm='LN': give BN, SyncBN or GN"),
        (lambda: PromptStem(norm="Sync"), "stem.norm='Sync': give .*did you mean 'SyncBN'"),
        (lambda: vitdet(attn_backend="trion"), "attn_backend='trion'.*did you mean 'triton'"),
        (lambda: swin(attn_backend="triton"), "attn_backend='triton': give auto, plain or fused"),
        (
            lambda: vitdet(VisibleOnly(), TUNERS["IVTuning"]()),
            "tuner=IVTuning works on visible and infrared, but stem=VisibleOnly ignores infrared: give "
            "stem=PromptStem",
        ),
        (lambda: swin(InfraredOnly(), TUNERS["IVTuning"]()), "stem=InfraredOnly ignores visible"),
    ],
)
def test_wrong_options_are_reported(make, message):
    with pytest.raises(UserError, match=message):
        make()
