"""Pictures of pairs with boxes, label maps and queries, and training curves."""

from .. import compat

compat.prepare()
