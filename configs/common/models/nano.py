"""A ViTDet small enough for a CPU: patch 8, width 96, 4 blocks, narrow heads. For images of about 200 px."""

from .faster_rcnn_vitdet import model

net = model.backbone.net
net.update(img_size=192, patch_size=8, embed_dim=96, depth=4, num_heads=3, drop_path_rate=0.0)
net.update(window_size=6, global_blocks=[1, 3], pretrain_img_size=192, class_token=False)
net.tuner.hidden_dim = 16
# Levels of stride 8 and 16; objects here are 10 to 60 px long.
model.backbone.update(out_channels=64, scale_factors=(1.0, 0.5), top_block=None)
model.square_pad = 0

rpn = model.proposal_generator
rpn.update(
    in_features=["p3", "p4"], pre_nms_topk=(300, 200), post_nms_topk=(150, 100), batch_size_per_image=64
)
rpn.head.update(conv_dims=[-1], num_anchors=6)
rpn.anchor_generator.update(sizes=[[12, 20], [32, 48]], strides=[8, 16])

heads = model.roi_heads
heads.update(box_in_features=["p3", "p4"], batch_size_per_image=32)
heads.box_pooler.update(output_size=7, scales=(1.0 / 8, 1.0 / 16), sampling_ratio=1)
heads.box_head.update(conv_dims=[64], fc_dims=[256])
