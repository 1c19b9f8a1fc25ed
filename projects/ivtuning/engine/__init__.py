"""Training: the run of a config, and its parts: trainer, hooks, optimizer, several processes, speed."""

from .. import compat

compat.prepare()
