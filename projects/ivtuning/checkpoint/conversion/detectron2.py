"""detectron2's own detectors: only the trunk has another name here."""

from __future__ import annotations

from .family import Family

DETECTRON2 = Family(
    name="detectron2",
    what="detectron2 (Swin with FPN, ViTDet)",
    mark=r"^backbone\.(bottom_up|net)\.",
    rules=lambda state: [(r"^backbone\.bottom_up\.", "backbone.net.")],
)
