"""ivtuning: parameter-efficient tuning of frozen vision backbones on infrared-visible pairs."""

from . import compat as _compat

_compat.prepare()

__version__ = "0.1.0"
