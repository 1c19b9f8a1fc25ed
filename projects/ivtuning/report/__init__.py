"""The report of training runs: one HTML page with curves, tables and pictures, which needs no other file."""

from .. import compat

compat.prepare()
