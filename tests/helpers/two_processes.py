"""Two processes of one group, forked from the test's own."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback

import torch


def worker(rank: int, function, folder, args) -> None:
    try:
        torch.manual_seed(rank)
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
        )
        torch.save(function(rank, *args), folder / f"{rank}.pt")
        torch.distributed.destroy_process_group()
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def in_two(folder, function, *args, target=worker) -> list:
    """What `function(rank, *args)` returns in each of two processes of one group."""
    fork = multiprocessing.get_context("fork")
    folder.mkdir(exist_ok=True)
    ranks = [fork.Process(target=target, args=(rank, function, folder, args)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        process.kill()
    assert [p.exitcode for p in ranks] == [0, 0]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def node(rank: int, function, folder, args) -> None:
    """As `torchrun --nnodes 2 --nproc_per_node 1` starts it."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(args[0]))
    try:
        torch.save(function(rank, folder, *args[1:]), folder / f"{rank}.pt")
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
