"""The only place that knows which detectron2 is installed.

detectron2 calls every release since 2021 "0.6", so nothing here asks for a version: features are looked
for instead. The PyPI build (0.6 sources, no C++ operators) needs a few names that today's numpy and
Pillow dropped; the main branch needs nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import types
from pathlib import Path

from .errors import UserError


def _folders() -> list[Path]:
    """Where detectron2's sources lie. Files are looked at, because importing it costs seconds (torch)."""
    spec = importlib.util.find_spec("detectron2")
    if spec is None:
        raise ImportError("detectron2 is not installed: run `make setup` first")
    return [Path(folder) for folder in spec.submodule_search_locations or []]


def has_vit() -> bool:
    """True where detectron2 is newer than the 0.6 tag (it ships its own ViT)."""
    return any((folder / "modeling" / "backbone" / "vit.py").is_file() for folder in _folders())


def prepare() -> None:
    """Make `import detectron2...` work on today's numpy, Pillow and torch. Idempotent."""
    if not has_vit():
        import numpy
        import PIL.Image

        for name, builtin in dict(bool=bool, int=int, float=float, object=object, str=str).items():
            if name not in numpy.__dict__:
                setattr(numpy, name, builtin)
        if not hasattr(PIL.Image, "LINEAR"):
            PIL.Image.LINEAR = PIL.Image.BILINEAR
    if "detectron2._C" not in sys.modules and not _has_operators():
        # default_setup's environment report asks these three; nothing else of _C is used here.
        stub = types.ModuleType("detectron2._C")
        stub.get_compiler_version = lambda: "n/a"
        stub.get_cuda_version = lambda: "n/a"
        stub.has_cuda = lambda: False
        sys.modules["detectron2._C"] = stub


def _has_operators() -> bool:
    """Whether detectron2's compiled operators are there and load."""
    if not any(next(folder.glob("_C.*"), None) for folder in _folders()):
        return False
    try:
        importlib.import_module("detectron2._C")
    except ImportError:
        return False
    return True


def init_distributed() -> None:
    """Join the process group that torchrun describes in the environment; no-op in one process.

    NCCL where this process has a CUDA device, gloo otherwise.

    Raises:
        UserError: the processes do not find each other.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return
    import torch
    import torch.distributed as dist
    from detectron2.utils import comm

    if dist.is_initialized():
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        dist.init_process_group("nccl" if cuda else "gloo")
    except RuntimeError as error:  # gloo's, and those of the store behind MASTER_ADDR
        raise UserError(
            f"the {world} processes cannot reach each other ({str(error).strip().splitlines()[0]}): check "
            "MASTER_ADDR and MASTER_PORT, and name the network device that leads from node to node: "
            "GLOO_SOCKET_IFNAME=eth0 (lo on one machine), with CUDA NCCL_SOCKET_IFNAME"
        ) from error
    per_machine = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(per_machine)
        return
    # 0.6 keeps the group in a module variable that only its own (CUDA-only) launcher sets.
    for first in range(0, world, per_machine):
        group = dist.new_group(list(range(first, first + per_machine)))
        if first <= dist.get_rank() < first + per_machine:
            comm._LOCAL_PROCESS_GROUP = group


def wrap_ddp(model, **kwargs):
    """`model` in DistributedDataParallel where there is more than one process.

    `kwargs` go to DistributedDataParallel. detectron2's own helper always passes `device_ids`,
    which gloo on CPU refuses.
    """
    import torch
    from detectron2.utils import comm
    from torch.nn.parallel import DistributedDataParallel

    if comm.get_world_size() == 1:
        return model
    if torch.cuda.is_available():
        kwargs.setdefault("device_ids", [comm.get_local_rank()])
    return DistributedDataParallel(model, **kwargs)
