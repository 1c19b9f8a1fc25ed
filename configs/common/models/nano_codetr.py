"""Co-DINO small enough for a CPU, with the trunk and the pyramid of the nano detector."""

from .codetr_swin import model
from .nano_dino import model as _dino

model.backbone = _dino.backbone
model.max_detections_per_image = _dino.max_detections_per_image
model.denoising.num_dn_queries = 20
model.transformer.update(
    {
        k: v
        for k, v in _dino.transformer.items()
        if k in ("embed_dim", "num_heads", "feedforward_dim", "num_levels")
    }
)
model.transformer.update(encoder_layers=2, decoder_layers=3, num_queries=100)

# Levels of stride 8, 16, 32 and the heads' own of 64; objects are 10 to 60 px long.
_strides, _maps = [8, 16, 32, 64], ["p3", "p4", "p5", "p6"]
_sizes = [12, 24, 48, 96]
rpn = model.proposal_generator
rpn.update(in_features=_maps, pre_nms_topk=(300, 200), post_nms_topk=(150, 100), batch_size_per_image=64)
rpn.head.num_anchors = 3
rpn.anchor_generator.update(sizes=[[size] for size in _sizes], strides=_strides)
model.atss.anchor_generator.update(sizes=[[size] for size in _sizes], strides=_strides)

heads = model.roi_heads
heads.update(box_in_features=_maps[:-1], batch_size_per_image=64)
heads.box_pooler.update(output_size=7, scales=[1 / 8, 1 / 16, 1 / 32], sampling_ratio=1)
heads.box_head.fc_dims = [128, 128]
