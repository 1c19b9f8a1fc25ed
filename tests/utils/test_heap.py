"""The heap setting: what it is for can be counted, as page faults."""

import gc
import subprocess
import sys

import pytest

from ivtuning.utils.heap import collector_paused

FAULTS = """
import resource, sys
import torch
from ivtuning.utils.heap import keep_freed_memory

if "keep" in sys.argv:
    assert keep_freed_memory()
def use():
    return [torch.ones(1 << 20) for _ in range(16)] + [torch.ones(1 << 24)]  # 4 MiB each, and 64
for _ in range(3):
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*arguments: str) -> int:
    run = subprocess.run(
        [sys.executable, "-c", FAULTS, *arguments], capture_output=True, text=True, check=True, timeout=120
    )
    return int(run.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's setting")
def test_memory_once_freed_is_used_again_without_page_faults():
    # Not none: small blocks may come to sit where a large one began.
    assert faults("keep") < 0.5 * faults()


def test_the_collector_is_paused_and_goes_on():
    assert gc.isenabled()
    with pytest.raises(KeyError), collector_paused():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()
