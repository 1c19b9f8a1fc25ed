"""Normalization by name: the same layers for adapters and decoders, in one process and in several."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn

from ivtuning.errors import UserError
from ivtuning.tuning.frozen_statistics import frozen_statistics
from ivtuning.utils.norms import make_norm


@pytest.mark.parametrize("norm", ["BN", "SyncBN"])
def test_one_value_is_normalized_with_running_statistics_and_leaves_them(norm):
    torch.manual_seed(0)
    layer = make_norm(norm, 3)
    layer(torch.randn(4, 3, 5, 5) * 2 + 1)
    before, one = copy.deepcopy(layer.state_dict()), torch.randn(1, 3, 1, 1)
    expected = (one - layer.running_mean.view(-1, 1, 1)) / (layer.running_var.view(-1, 1, 1) + 1e-5).sqrt()
    torch.testing.assert_close(layer(one), expected)
    assert all(torch.equal(v, before[n]) for n, v in layer.state_dict().items())
    torch.testing.assert_close(layer.eval()(one), expected)
    # Two values are a batch as any other.
    two = torch.randn(2, 3, 1, 1)
    torch.testing.assert_close(layer.train()(two), F.batch_norm(two, None, None, training=True))
    assert not torch.equal(layer.running_mean, before["running_mean"])


@pytest.mark.parametrize("cuda", [False, True])
def test_sync_norm_has_batch_norms_names_on_any_device(cuda, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    layer = make_norm("SyncBN", 3)
    assert set(layer.state_dict()) == set(nn.BatchNorm2d(3).state_dict())
    assert isinstance(layer, nn.SyncBatchNorm)
    layer(torch.randn(1, 3, 1, 1))
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(make_norm("SyncBN", 3)(x), make_norm("BN", 3)(x))


def test_sync_norm_of_a_group_of_one_process(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        x = torch.randn(2, 3, 4, 4)
        torch.testing.assert_close(make_norm("SyncBN", 3)(x), make_norm("BN", 3)(x))
    finally:
        dist.destroy_process_group()


def test_groups():
    assert [make_norm("GN", c).num_groups for c in (4, 8, 16, 24, 64, 20)] == [1, 1, 2, 3, 8, 2]
    assert make_norm("GN", 96, groups=32).num_groups == 32
    for channels in (32, 40):
        with pytest.raises(UserError, match=f"64, 96, ... channels, not {channels}"):
            make_norm("GN", channels, groups=32)


def test_unknown_kinds_are_reported():
    with pytest.raises(UserError, match="norm='syncBN': give BN, SyncBN, GN; did you mean 'SyncBN'"):
        make_norm("syncBN", 8)


SIZES = (3, 1)  # images of each process


def whole_batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return 3 * torch.randn(sum(SIZES), 5, 4, 6) + 100, torch.randn(sum(SIZES), 5, 4, 6)


def figures(layer: nn.Module, x: torch.Tensor, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)
    (y * weight).sum().backward()
    grads = {f"{name}.grad": p.grad for name, p in layer.named_parameters()}
    return {"y": y.detach(), "x": x.grad, **grads, **dict(layer.named_buffers())}


def layer() -> nn.Module:
    norm = make_norm("SyncBN", 5)
    nn.init.normal_(norm.weight, mean=1.0)
    return norm


def one_process(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=len(SIZES))
    x, weight = (t.split(SIZES)[rank] for t in whole_batch())
    torch.manual_seed(1)
    norm = layer()
    result = figures(norm, x, weight)
    with frozen_statistics(norm):
        norm(x)
    assert norm.num_batches_tracked == 1
    torch.save(result, f"{folder}/{rank}.pth")
    dist.destroy_process_group()


@pytest.mark.slow
def test_processes_without_cuda_compute_what_one_does_with_all_images(tmp_path):
    """Values, gradients and running statistics, with unequal batches whose mean is far from zero."""
    mp.spawn(one_process, (str(tmp_path),), len(SIZES))
    torch.manual_seed(1)
    expected = figures(layer(), *whole_batch())
    parts = [torch.load(tmp_path / f"{rank}.pth") for rank in range(len(SIZES))]
    for name in ("y", "x"):
        whole = torch.cat([part[name] for part in parts])
        torch.testing.assert_close(whole, expected[name], rtol=1e-4, atol=1e-4, msg=name)
    for name in ("weight.grad", "bias.grad"):
        torch.testing.assert_close(sum(part[name] for part in parts), expected[name], rtol=1e-4, atol=1e-4)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        for part in parts:
            torch.testing.assert_close(part[name], expected[name], rtol=1e-5, atol=1e-5, msg=name)
