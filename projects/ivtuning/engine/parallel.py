"""Several processes: whole models with averaged gradients (DDP), or sharded parameters (FSDP)."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from ..backbones.trunk import Trunk
from ..errors import UserError, user_message

logger = logging.getLogger("ivtuning")
T = TypeVar("T")
_START = "start n processes with make's GPUS=n or torchrun, which set what they need, or unset WORLD_SIZE"


def parallelize(model: nn.Module, trunk: Trunk, kind: str, ddp: Mapping[str, Any]) -> nn.Module:
    """`model`, prepared for training in all processes; unchanged where there is only one.

    Args:
        trunk: the model's.
        kind: "ddp" keeps a whole copy in each process and averages the gradients; "fsdp" shards every
            parameter in place, frozen ones too, and gathers the trunk's blocks one by one as they run, all
            else once a pass. FSDP replaces the parameters: build the optimizer afterwards.
        ddp: options of DistributedDataParallel.
    """
    if kind == "ddp":
        return wrap_ddp(model, **ddp)
    if comm.get_world_size() > 1:
        # Unlike DDP, FSDP trusts that all processes start from the same values.
        for tensor in itertools.chain(model.parameters(), model.buffers()):
            dist.broadcast(tensor.detach(), 0)
        # FSDP warns about in-place changes to a block's output; none happens while gradients are on.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
        mesh = init_device_mesh(next(model.parameters()).device.type, (comm.get_world_size(),))
        for block in trunk.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        own = sum(p.to_local().nbytes for p in model.parameters())
        whole = sum(p.nbytes for p in model.parameters())
        logger.info("FSDP: this process keeps %.1f of %.1f MB of parameters", own / 1e6, whole / 1e6)
    return model


@contextlib.contextmanager
def local_gradients(model: nn.Module) -> Iterator[None]:
    """Inside, gradients add up within each process; the next backward pass outside averages their sums."""
    if isinstance(model, DistributedDataParallel):
        with model.no_sync():
            yield
    elif isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            model.set_requires_gradient_sync(True)
    else:
        yield


def share_buffers(model: nn.Module) -> None:
    """Give every process the main one's buffers, such as the running statistics of batch norms.

    Each process collects statistics of its own images, and checkpoints hold the main one's. Evaluation is to
    use those too, or else a resumed run would give other figures than the whole run.
    """
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


@contextlib.contextmanager
def whole_parameters(model: nn.Module) -> Iterator[None]:
    """Inside, every process holds all parameters of an FSDP model, for evaluation.

    Forward passes then need no other process, which may have fewer images. All processes must enter and leave
    together.
    """
    parts = [m for m in model.modules() if isinstance(m, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            # The model's own part is needed again right away, in the backward pass.
            part.set_reshard_after_forward(part is not model, recurse=False)
            part.reshard()


def _number(name: str, default: str | None = None) -> int:
    """An environment variable of torchrun's as a number. Raises a UserError."""
    value = os.environ.get(name, default)
    try:
        return int(value or "")
    except ValueError:
        told = "is not set" if value is None else f"is {value!r}, no number"
        raise UserError(f"the environment variable {name} {told}: {_START}") from None


def init_distributed(device: torch.device) -> None:
    """Join the process group that torchrun describes in the environment; does nothing in a single process.

    Args:
        device: where models run. The backend is NCCL for CUDA, gloo otherwise.

    Raises:
        UserError: the environment is incomplete, there are more processes than GPUs, or the processes do not
            find each other.
    """
    world = _number("WORLD_SIZE", "1")
    if world == 1:
        return
    if dist.is_initialized():
        return
    cuda = device.type == "cuda"
    if cuda:
        local = _number("LOCAL_RANK")
        # By the count of processes, all of them find out, and the main one prints the error.
        needed, count = max(local + 1, _number("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
        if needed > count:
            raise UserError(f"{needed} processes on this machine need as many GPUs, it has {count}: {_START}")
        torch.cuda.set_device(local)
    try:
        dist.init_process_group("nccl" if cuda else "gloo")
    except ValueError as error:  # a variable that is missing, or that is no number
        raise UserError(f"{str(error).strip().splitlines()[0]}: {_START}") from error
    except RuntimeError as error:  # gloo's, and those of the store behind MASTER_ADDR
        raise UserError(
            f"the {world} processes cannot reach each other ({str(error).strip().splitlines()[0]}): check "
            "MASTER_ADDR and MASTER_PORT, and name the network device that leads from node to node: "
            "GLOO_SOCKET_IFNAME=eth0 (lo on one machine), with CUDA NCCL_SOCKET_IFNAME"
        ) from error
    per_machine = _number("LOCAL_WORLD_SIZE", str(world))
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(per_machine)
        return
    # 0.6 keeps the group in a module variable that only its own (CUDA-only) launcher sets.
    for first in range(0, world, per_machine):
        group = dist.new_group(list(range(first, first + per_machine)))
        if first <= dist.get_rank() < first + per_machine:
            comm._LOCAL_PROCESS_GROUP = group


def wrap_ddp(model: nn.Module, **kwargs) -> nn.Module:
    """`model` in DistributedDataParallel; unchanged where there is only one process.

    `kwargs` go to DistributedDataParallel. detectron2's own helper always passes `device_ids`, which gloo
    refuses on a CPU.
    """
    if comm.get_world_size() == 1:
        return model
    device = next(model.parameters()).device
    if device.type == "cuda":
        kwargs.setdefault("device_ids", [device])
    return DistributedDataParallel(model, **kwargs)


def on_main(function: Callable[[], T]) -> T | None:
    """`function()` in the main process, None in the others. All must call it.

    Raises:
        UserError: in all processes, the line about an error that `function` raised.
    """
    value = failure = None
    if comm.is_main_process():
        try:
            value = function()
        except Exception as error:
            failure = user_message(error)
            if failure is None or comm.get_world_size() == 1:
                raise
    failure = comm.all_gather(failure)[0]
    if failure is not None:
        raise UserError(failure)
    return value
