"""Necks between the trunk and the heads: feature pyramids, multi-scale maps and pooled maps."""

from .. import compat

compat.prepare()
