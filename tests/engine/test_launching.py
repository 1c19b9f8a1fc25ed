"""What several processes need to start: addresses, numbers in the environment, and GPUs."""

from __future__ import annotations

import os

import pytest
import torch
from helpers.two_processes import free_port, in_two, node

from ivtuning.engine.parallel import init_distributed
from ivtuning.errors import UserError


def unreachable(rank: int, folder) -> str:
    os.environ["GLOO_SOCKET_IFNAME"] = "nosuch0"
    with pytest.raises(UserError) as error:
        init_distributed(torch.device("cpu"))
    return str(error.value)


def test_processes_that_cannot_reach_each_other_report_what_to_do(tmp_path):
    for line in in_two(tmp_path, unreachable, free_port(), target=node):
        assert "nosuch0): check MASTER_ADDR" in line and "GLOO_SOCKET_IFNAME=eth0" in line
        assert "\n" not in line


@pytest.mark.parametrize(
    "found, device, message",
    [
        ({"WORLD_SIZE": ""}, "cpu", "WORLD_SIZE is '', no number"),
        ({"WORLD_SIZE": "2"}, "cpu", "environment variable RANK expected"),
        ({"WORLD_SIZE": "2"}, "cuda", "LOCAL_RANK is not set"),
        (
            {"WORLD_SIZE": "2", "LOCAL_RANK": "1"},
            "cuda",
            "2 processes on this machine need as many GPUs, it has 1",
        ),
        (
            {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"},
            "cuda",
            "2 processes on this machine need as many GPUs, it has 1",
        ),
    ],
)
def test_an_environment_that_starts_no_processes_is_reported(monkeypatch, found, device, message):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=f"{message}.*: start n processes with make's GPUS=n") as error:
        init_distributed(torch.device(device))
    assert "\n" not in str(error.value)
