"""Benchmarks of speed and memory, as ratios measured in one run.

Each module of :mod:`.parts` is one benchmark, :mod:`.measures` has the instruments, :mod:`.subjects` what is
measured. `tools/benchmark.py` runs them.
"""

from .. import compat

compat.prepare()
