"""What every tuning method keeps to, on every trunk."""

from __future__ import annotations

import copy
import functools
import re
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from helpers.tiny import eva, plain_vit, swin, vitdet
from torch import nn

from ivtuning import tuning
from ivtuning.backbones.stems import InfraredOnly, PromptStem, SumStem, VisibleOnly
from ivtuning.backbones.trunk import PLUGINS
from ivtuning.checkpoint import load_adapter, save_adapter
from ivtuning.checkpoint.adapter import read_metadata
from ivtuning.config import load_config
from ivtuning.errors import UserError
from ivtuning.tuning import TUNERS, LoRA, Partial

TRUNKS = {"vitdet": vitdet, "plain_vit": plain_vit, "swin": swin, "eva02": eva}
ADDING = {
    "IVTuning": dict(hidden_dim=8, dropout=0.5, zero_init=False),
    "Mona": dict(hidden_dim=8, dropout=0.5),
    "Adapter": dict(hidden_dim=8, dropout=0.5),
    "AdaptFormer": dict(hidden_dim=8, dropout=0.5),
    "LoRA": dict(rank=2),
}
SELECTING = ("BitFit", "NormTuning", "Partial", "Full")
# A method that trains nothing of its own comes with a stem that does.
STEMS = {"IVTuning": lambda: PromptStem(zero_init=False), "Full": SumStem, "Frozen": SumStem}

on_every_trunk = pytest.mark.parametrize("trunk", TRUNKS)
by_every_tuner = pytest.mark.parametrize("tuner", TUNERS)
by_adding = pytest.mark.parametrize("tuner", ADDING)
by_selecting = pytest.mark.parametrize("tuner", SELECTING)


@functools.cache
def pretrained(trunk: str) -> dict:
    torch.manual_seed(0)
    return TRUNKS[trunk](VisibleOnly(), TUNERS["Frozen"]()).state_dict()


def build(trunk: str, tuner: str, seed: int = 0, stem=None):
    """A trunk whose base is always the same."""
    torch.manual_seed(seed)
    net = TRUNKS[trunk]((stem or STEMS.get(tuner, VisibleOnly))(), TUNERS[tuner](**ADDING.get(tuner, {})))
    net.load_state_dict(pretrained(trunk), strict=False)
    return net


def frozen(trunk: str):
    return build(trunk, "Frozen", stem=VisibleOnly)


@torch.no_grad()
def wake(net, seed: int = 0):
    """Give whatever trains weights that matter, so that nothing starts as the identity."""
    torch.manual_seed(seed)
    for parameter in net.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return net


def base(net) -> dict:
    return {n: t.clone() for n, t in net.state_dict().items() if n.split(".")[0] not in PLUGINS}


def images(seed: int = 1):
    return torch.randn(2, 6, 24, 40, generator=torch.Generator().manual_seed(seed))


def outputs(net, x=None) -> torch.Tensor:
    with torch.no_grad():
        maps = net(images() if x is None else x).values()
        return torch.cat([m.flatten() for m in maps])


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
    assert torch.equal(outputs(net), outputs(net)) == (tuner == "LoRA")


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


def test_disabling_leaves_a_stem_without_parameters_as_it_is():
    net = build("vitdet", "Mona", stem=InfraredOnly).eval()
    with net.disable_adapters():
        assert torch.equal(outputs(net), outputs(frozen("vitdet").eval(), images()[:, 3:]))
    net = build("vitdet", "Frozen").eval()
    with net.disable_adapters():
        assert torch.equal(outputs(net), outputs(frozen("vitdet").eval()))


@on_every_trunk
def test_lora_merges_and_unmerges(trunk):
    net = wake(build(trunk, "LoRA")).eval()
    before, weights = outputs(net), base(net)
    net.merge_adapters()
    net.merge_adapters()  # twice is once
    merged = frozen(trunk).eval()
    merged.load_state_dict(base(net))
    assert not torch.equal(outputs(merged), outputs(frozen(trunk).eval()))
    for same in (net, merged):
        assert (outputs(same) - before).abs().max() < 1e-5
    net.unmerge_adapters()
    net.unmerge_adapters()
    assert all((t - weights[n]).abs().max() < 1e-6 for n, t in base(net).items())
    assert (outputs(net) - before).abs().max() < 1e-5


def test_a_merged_lora_is_guarded(tmp_path):
    net = wake(build("vitdet", "LoRA")).train()
    with pytest.raises(UserError, match="call model.eval"):
        net.merge_adapters()
    save_adapter(net.eval(), tmp_path / "a.safetensors")
    net.merge_adapters()
    with pytest.raises(UserError, match="does not train"):
        net.train()
    with pytest.raises(UserError, match="unmerge_adapters"), net.disable_adapters():
        pass
    with pytest.raises(UserError, match="unmerge_adapters"):
        save_adapter(net, tmp_path / "b.safetensors")
    with pytest.raises(UserError, match="unmerge_adapters"):
        load_adapter(net, tmp_path / "a.safetensors")
    net.eval().unmerge_adapters()
    net.train()


def test_lora_that_is_not_finite_leaves_the_base_alone():
    net = wake(build("vitdet", "LoRA")).eval()
    net.tuner.updates[3]["v"].lora_A.data[0, 0] = torch.nan
    weights = base(net)
    with pytest.raises(UserError, match="infinite or NaN"):
        net.merge_adapters()
    assert all(torch.equal(t, weights[n]) for n, t in base(net).items())


def test_lora_goes_along_with_a_copy():
    net = wake(build("vitdet", "LoRA")).eval()
    twin, before = copy.deepcopy(net), outputs(net)
    assert torch.equal(outputs(twin), before)
    twin.tuner.reset_to_identity()
    assert torch.equal(outputs(net), before)
    assert torch.equal(outputs(twin), outputs(frozen("vitdet").eval()))


def test_lora_updates_the_rows_of_its_targets():
    torch.manual_seed(0)
    net = vitdet(VisibleOnly(), LoRA(rank=2, targets=["k"])).eval()
    weight = net.blocks[1].attn.qkv.weight.detach().clone()
    wake(net).merge_adapters()
    changed = (net.blocks[1].attn.qkv.weight != weight).any(1)
    assert changed.tolist() == [False] * 24 + [True] * 24 + [False] * 24


@pytest.mark.parametrize("tuner, reason", [("Adapter", "GELU"), ("AdaptFormer", "GELU")] + [
    (name, "convolutions") for name in ("Mona", "IVTuning")
])  # fmt: skip
def test_what_cannot_merge_says_why(tuner, reason):
    net = build("vitdet", tuner).eval()
    with pytest.raises(UserError, match=f"{tuner} cannot be merged into the base: .*{reason}"):
        net.merge_adapters()
    with pytest.raises(UserError, match=f"{tuner} is never merged"):
        net.unmerge_adapters()


@by_selecting
def test_a_changed_base_is_merged_as_it_is(tuner):
    net = wake(build("vitdet", tuner)).eval()
    weights = base(net)
    net.merge_adapters()
    net.unmerge_adapters()
    assert all(torch.equal(t, weights[n]) for n, t in base(net).items())


def written_out(net, tuner: str, x, drop=lambda y: y):
    """The papers' block, tuned by `tuner`; `drop` is drop-path on the MLP."""
    block, adapters = net.blocks[1], net.tuner.blocks[1]
    a = x + block.attend(block.norm1(x))
    if tuner == "Mona":
        a = adapters.adapter1(a)
        return adapters.adapter2(a + drop(block.mlp(block.norm2(a))))
    if tuner == "Adapter":
        a = a + adapters.adapter1(a)
        y = block.mlp(block.norm2(a))
        return a + drop(y + adapters.adapter2(y))
    return a + drop(block.mlp(block.norm2(a))) + 0.1 * adapters.branch(a)


class Dropped(nn.Module):
    def forward(self, x):
        return torch.zeros_like(x)


@pytest.mark.parametrize("trunk", ["vitdet", "swin"])
@pytest.mark.parametrize("tuner", ["Mona", "Adapter", "AdaptFormer"])
def test_placement(trunk, tuner):
    net = wake(build(trunk, tuner)).eval()
    torch.manual_seed(3)
    x = torch.randn(2, 5, 7, net.blocks[1].norm1.weight.numel())
    assert torch.allclose(net.blocks[1](x, net.block_adapters(1), x), written_out(net, tuner, x), atol=1e-6)
    net.blocks[1].drop_path2 = Dropped()
    dropped = written_out(net, tuner, x, torch.zeros_like)
    assert torch.allclose(net.blocks[1](x, net.block_adapters(1), x), dropped, atol=1e-6)


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
        (lambda: vitdet(tuner=Partial(5)), "tuner.n=5: the trunk has 4 blocks"),
        (lambda: vitdet(tuner=Partial(0)), "tuner.n=0"),
        (lambda: LoRA(rank=0), "tuner.rank=0"),
        (lambda: LoRA(targets=["q", "w"]), "tuner.targets=.*give some of q, k, v"),
        (lambda: LoRA(targets=[]), "tuner.targets"),
        (lambda: LoRA(rank="many"), "tuner.rank='many': give a whole number from 1"),
        (lambda: LoRA(alpha="big"), "tuner.alpha='big': give a number"),
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
