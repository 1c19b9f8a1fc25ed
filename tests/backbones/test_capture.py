"""A trunk's forward and backward pass by the rules of a captured graph, as far as no GPU is needed."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from helpers import tiny
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ivtuning.backbones.swin import shift_mask
from ivtuning.tuning import Full, IVTuning, LoRA, Mona
from ivtuning.tuning.stems import PromptStem, SumStem

METHODS = {
    "iv": lambda: (PromptStem(), IVTuning(hidden_dim=16, dropout=0.1)),
    "mona": lambda: (SumStem(), Mona(hidden_dim=16)),
    "lora": lambda: (SumStem(), LoRA(rank=2)),
    "full": lambda: (SumStem(), Full()),
}
TRUNKS = {
    "vitdet": partial(tiny.vitdet, depth=2, global_blocks=(1,), frozen_eval=False, drop_path_rate=0.2),
    "swin": partial(
        tiny.swin, depths=(2, 2), num_heads=(1, 2), out_indices=(0, 1), frozen_eval=False, drop_path_rate=0.2
    ),
}


class OnTheDeviceAlone(TorchDispatchMode):
    """Refuses operators with a tensor that is not on the meta device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        # A random number that the host draws, or a value that it reads, is a tensor on the CPU.
        assert all(tensor.is_meta for tensor in tensors), func
        return result


def energy_of(trunk, size, device):
    outputs = trunk(torch.empty(2, 6, *size, device=device))
    return sum(output.float().square().sum() for output in outputs.values())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", TRUNKS)
def test_a_pass_neither_asks_the_device_nor_draws_on_the_host(name, method):
    """Tensors on the meta device have shapes alone: what depends on a value raises."""
    with torch.device("meta"):
        trunk = TRUNKS[name](*METHODS[method]()).train()
    with OnTheDeviceAlone():
        energy_of(trunk, (48, 72), "meta").backward()
    trained = [p for p in trunk.parameters() if p.requires_grad]
    assert trained and all(p.grad is not None for p in trained)


@pytest.mark.slow
def test_a_pass_runs_on_fake_tensors():
    """These refuse reads of values, and operators whose shape depends on one."""
    trunk = TRUNKS["swin"](*METHODS["iv"](), depths=(2,), num_heads=(1,), out_indices=(0,)).train()
    shift_mask.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.autocast("cpu", torch.bfloat16):  # in full precision, a CPU has tiles of its own
            loss = energy_of(trunk, (48, 72), "cpu")
        loss.backward()
    shift_mask.cache_clear()  # it has a fake one
    assert loss.shape == ()
