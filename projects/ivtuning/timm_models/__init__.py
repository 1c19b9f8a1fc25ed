"""Tuning methods on models of timm's, for people who do not use detectron2.

    model = timm.create_model("vit_base_patch16_224.mae", pretrained=True, num_classes=5)
    tuned = ivtuning.attach(model, LoRA(rank=8))
    optimizer = torch.optim.AdamW(tuned.trained_parameters(), lr=1e-3)

The blocks of the model are opened in place: they keep their names, so its state dict and its checkpoints stay
as they were. docs/timm.md shows more.
"""

from .tuned import TunedModel, attach

__all__ = ["TunedModel", "attach"]
