"""Trunks (frozen pretrained transformers) with a stem and a tuner plugged in, and the neck on top."""

from .. import compat

compat.prepare()
