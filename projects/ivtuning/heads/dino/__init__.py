"""The DINO detector, with multi-scale deformable attention in plain torch.

Parameter names follow the checkpoints of IDEA-Research/DINO ("model" in the file). N counts layers or maps
from 0. Buffers in the file that correspond to no parameter are ignored:

=====================================================  ==================================================
in the file                                            in this package
=====================================================  ==================================================
backbone.0.*                                           backbone.net.*
input_proj.N.0.*, input_proj.N.1.*                     neck.N.0.*, neck.N.1.*
label_enc.weight                                       label_enc.weight
class_embed.N.*, transformer.decoder.class_embed.N.*   transformer.decoder.class_embed.0.* (all N are one)
bbox_embed.N.*, transformer.decoder.bbox_embed.N.*     transformer.decoder.bbox_embed.0.* (all N are one)
transformer.encoder.layers.N.*                         the same
transformer.decoder.{layers.N,norm,ref_point_head}.*   the same
transformer.{level_embed,tgt_embed.weight}             the same
transformer.{enc_output,enc_output_norm}.*             the same
transformer.{enc_out_class_embed,enc_out_bbox_embed}.* the same
=====================================================  ==================================================

Where every layer has its own heads (detrex, mmdetection), use `share_heads=False`; N is then kept. In those
files the last head, N = number of decoder layers, is the encoder's: here `transformer.enc_out_*_embed`.
"""

from .criterion import Criterion
from .deformable_attention import MultiScaleDeformableAttention, multi_scale_deformable_attn
from .denoising import ContrastiveDenoising
from .dino import DINO, PairedDINO
from .matcher import HungarianMatcher
from .transformer import Transformer

__all__ = [
    "Criterion",
    "ContrastiveDenoising",
    "DINO",
    "HungarianMatcher",
    "MultiScaleDeformableAttention",
    "PairedDINO",
    "Transformer",
    "multi_scale_deformable_attn",
]
