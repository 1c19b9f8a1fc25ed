"""The benchmark's part `neighbor`: workers, busy processes and what they are asked. Nothing here is timed."""

from __future__ import annotations

import io
import os
import sys

import pytest

from ivtuning.benchmark.options import Options
from ivtuning.benchmark.parts import neighbor
from ivtuning.engine.trainer import Trainer
from ivtuning.errors import UserError
from ivtuning.threads import SETTINGS

# Answers at once, and writes down its environment and what it was asked.
WORKER = """
import os, sys
log = open({log!r} + str(os.getpid()), "w")
print(os.environ.get("GOMP_SPINCOUNT"), file=log, flush=True)
print("ready", flush=True)
for line in sys.stdin:
    print(line.strip(), file=log, flush=True)
    print("done", flush=True)
"""


def test_workers_take_turns_alone_and_beside_busy_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    monkeypatch.setattr(neighbor, "WORKER", ["-c", WORKER.format(log=f"{tmp_path}/log")])
    result = neighbor.measure(Options(repeats=2))
    logs = sorted(log.read_text().split() for log in tmp_path.glob("log*"))
    work = ["step", "eval"] * 3 * 3  # three numbers of neighbors; one round is not counted
    assert logs == [[SETTINGS["GOMP_SPINCOUNT"], *work], ["None", *work]]
    assert list(result.rows) == [f"neighbor_{work}_{count}" for work in ("step", "eval") for count in (1, 2)]
    assert all(row.value > 0 and "defaults" in row.note for row in result.rows.values())
    assert [line[:2] for line in result.listings[0].lines] == [
        [work, name] for work in ("training step", "evaluation") for name in neighbor.ENVIRONMENTS
    ]


def test_a_worker_that_stops_is_reported(monkeypatch):
    monkeypatch.setattr(neighbor, "WORKER", ["-c", "import sys; sys.exit('no such thing')"])
    with pytest.raises(UserError, match="worker with OpenMP's defaults stopped: no such thing"):
        neighbor.measure(Options(repeats=1))


def test_worker_trains_and_evaluates(pairs, monkeypatch):
    steps = []
    monkeypatch.setattr(neighbor.run, "evaluate", lambda cfg, model: steps.append("evaluated"))
    monkeypatch.setattr(Trainer, "run_step", lambda self: steps.append(len(next(self.batches))))
    answers = io.StringIO()
    neighbor.serve(["step\n", "eval\n"], answers)
    assert answers.getvalue().split() == ["ready", "done", "done"]
    assert steps == [8, "evaluated"]


def test_busy_processes_stop_and_go():
    with neighbor.paused_loop() as process:
        seen = []
        neighbor.work_beside([process], lambda: seen.append(state(process.pid)))
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        assert seen[0] in "RS" and state(process.pid) == "T"
    assert process.poll() is not None


def state(pid: int) -> str:
    """The kernel's letter for a process' state: R running, S sleeping, T stopped."""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]
