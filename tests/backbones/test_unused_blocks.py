"""Blocks after the last output hold the file's weights; they do not run, and nothing in them trains."""

from __future__ import annotations

import pytest
import torch
from helpers.tiny import TRUNKS
from helpers.tuned import ADDING, STEMS, build, by_every_tuner, pretrained, wake

from ivtuning.errors import UserError
from ivtuning.tuning import TUNERS, Frozen, LoRA, Partial
from ivtuning.tuning.stems import VisibleOnly

# The first output of each; every trunk has more blocks.
FIRST = {name: (0,) if name == "Swin" else (1,) for name in TRUNKS if name != "ViTDet"}
on_every_trunk = pytest.mark.parametrize("trunk", FIRST)


def cut(trunk: str, tuner, stem=VisibleOnly, **options):
    net = TRUNKS[trunk](stem(), tuner, out_indices=FIRST[trunk], **options)
    net.load_state_dict(pretrained(trunk), strict=False)
    return net


@on_every_trunk
@by_every_tuner
def test_all_that_trains_has_a_gradient(trunk, tuner):
    norm = {} if trunk == "Swin" else dict(final_norm=True)
    stem = STEMS.get(tuner, VisibleOnly)
    net = wake(cut(trunk, TUNERS[tuner](**ADDING.get(tuner, {})), stem, **norm)).train()
    sum(y.square().sum() for y in net(torch.randn(2, 6, 48, 48)).values()).backward()
    training = {name: p for name, p in net.named_parameters() if p.requires_grad}
    assert [name for name, p in training.items() if p.grad is None] == []
    assert tuner == "Frozen" or training
    assert len(net.tuner.blocks or ()) in (0, 2)


@on_every_trunk
def test_the_output_is_that_of_the_trunk_with_all_outputs(trunk):
    x = torch.randn(1, 3, 48, 48)
    whole, net = build(trunk, "Frozen", stem=VisibleOnly).eval(), cut(trunk, Frozen()).eval()
    weights = net.state_dict()
    assert [name for name in pretrained(trunk) if name not in weights and not name.startswith("norm")] == []
    ((name, y),) = net(x).items()
    assert torch.equal(y, whole(x)[name])


@on_every_trunk
def test_the_last_block_in_use_is_what_partial_trains(trunk):
    names = {name for name, p in cut(trunk, Partial()).named_parameters() if p.requires_grad}
    start = "layers.0.blocks.1." if trunk == "Swin" else "blocks.1."
    assert names and all(name.startswith(start) for name in names)
    with pytest.raises(UserError, match="n=3: the trunk uses 2 blocks, give 1 to 2"):
        cut(trunk, Partial(3))


@on_every_trunk
def test_merging_leaves_the_rest_as_it_is(trunk):
    net = wake(cut(trunk, LoRA(rank=2))).eval()
    x, before = torch.randn(1, 3, 48, 48), {name: t.clone() for name, t in net.state_dict().items()}
    with torch.no_grad():
        wanted = net(x)
        net.merge_adapters()
        for name, y in net(x).items():
            torch.testing.assert_close(y, wanted[name], rtol=1e-4, atol=1e-5)
    changed = {name for name, t in net.state_dict().items() if not torch.equal(t, before[name])}
    later = ("layers.1", "layers.2") if trunk == "Swin" else ("blocks.2", "blocks.3")
    assert changed and not any(name.startswith(later) for name in changed)
