"""Infrared-visible data: registered sets, mappers, loaders, preparation, verification, synthetic scenes."""

from .. import compat

compat.prepare()
