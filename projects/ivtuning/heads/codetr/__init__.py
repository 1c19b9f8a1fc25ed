"""The Co-DINO detector of Co-DETR (arXiv 2211.12860): DINO, trained with an auxiliary R-CNN and ATSS head.

These are the parameter names for those in checkpoints of Sense-X/Co-DETR ("state_dict" in the file). N counts
layers, maps or heads from 0, M is the number of the backbone's maps. Buffers in the file that correspond to
no parameter are ignored. No tensor changes its shape or the order of its channels; fc_cls has the background
last in both:

====================================================  =====================================================
in the file                                           in this package
====================================================  =====================================================
backbone.*                                            backbone.net.* (see checkpoint/trunks/swin.py)
neck.convs.N.{conv,gn}.*                              neck.N.{0,1}.*
neck.extra_convs.N.{conv,gn}.*                        neck.(M + N).{0,1}.*
query_head.label_embedding.weight                     label_enc.weight
query_head.downsample.{0,1}.*                         downsample.{0,1}.*
query_head.cls_branches.N.*, N < layers               transformer.decoder.class_embed.N.*
query_head.cls_branches.N.*, N = layers               transformer.enc_out_class_embed.*
query_head.reg_branches.N.{0,2,4}.*, N < layers       transformer.decoder.bbox_embed.N.layers.{0,1,2}.*
query_head.reg_branches.N.{0,2,4}.*, N = layers       transformer.enc_out_bbox_embed.layers.{0,1,2}.*
query_head.transformer.level_embeds                   transformer.level_embed
query_head.transformer.query_embed.weight             transformer.tgt_embed.weight
query_head.transformer.{enc_output,enc_output_norm}.* transformer.{enc_output,enc_output_norm}.*
query_head.transformer.aux_pos_trans.N.*              transformer.aux_pos_trans.N.* (0 R-CNN, 1 ATSS)
query_head.transformer.aux_pos_trans_norm.N.*         transformer.aux_pos_trans_norm.N.*
====================================================  =====================================================

With T = query_head.transformer in the file and T = transformer in this package:

====================================================  =====================================================
T.encoder.layers.N.attentions.0.*                     T.encoder.layers.N.self_attn.*
T.encoder.layers.N.ffns.0.layers.0.0.*                T.encoder.layers.N.linear1.*
T.encoder.layers.N.ffns.0.layers.1.*                  T.encoder.layers.N.linear2.*
T.encoder.layers.N.norms.{0,1}.*                      T.encoder.layers.N.{norm1,norm2}.*
T.decoder.layers.N.attentions.0.attn.*                T.decoder.layers.N.self_attn.*
T.decoder.layers.N.attentions.1.*                     T.decoder.layers.N.cross_attn.*
T.decoder.layers.N.ffns.0.layers.0.0.*                T.decoder.layers.N.linear1.*
T.decoder.layers.N.ffns.0.layers.1.*                  T.decoder.layers.N.linear2.*
T.decoder.layers.N.norms.{0,1,2}.*                    T.decoder.layers.N.{norm2,norm1,norm3}.* (this order)
T.decoder.ref_point_head.{0,2}.*                      T.decoder.ref_point_head.layers.{0,1}.*
T.decoder.norm.*                                      T.decoder.norm.*
====================================================  =====================================================

The auxiliary heads, which only training uses:

====================================================  =====================================================
rpn_head.rpn_conv.*                                   proposal_generator.rpn_head.conv.*
rpn_head.rpn_cls.*                                    proposal_generator.rpn_head.objectness_logits.*
rpn_head.rpn_reg.*                                    proposal_generator.rpn_head.anchor_deltas.*
roi_head.0.bbox_head.shared_fcs.{0,1}.*               roi_heads.box_head.{fc1,fc2}.*
roi_head.0.bbox_head.fc_cls.*                         roi_heads.box_predictor.cls_score.*
roi_head.0.bbox_head.fc_reg.*                         roi_heads.box_predictor.bbox_pred.*
bbox_head.0.cls_convs.N.conv.weight, .gn.*            atss.cls_convs.N.weight, .norm.*
bbox_head.0.reg_convs.N.conv.weight, .gn.*            atss.reg_convs.N.weight, .norm.*
bbox_head.0.{atss_cls,atss_reg,atss_centerness}.*     atss.{cls_score,bbox_pred,centerness}.*
bbox_head.0.scales.N.scale                            atss.scales.N
====================================================  =====================================================

The layers that depend on the number of classes: label_enc.weight, transformer.decoder.class_embed.N,
transformer.enc_out_class_embed, roi_heads.box_predictor.{cls_score,bbox_pred}, atss.cls_score.
"""

from .atss import ATSSHead
from .codetr import CoDINO, PairedCoDINO
from .criterion import QualityCriterion
from .regions import OutputLayers, RPNHead, ShapeMajorAnchors
from .soft_nms import SoftNMS
from .transformer import CoTransformer

__all__ = [
    "ATSSHead",
    "CoDINO",
    "CoTransformer",
    "OutputLayers",
    "PairedCoDINO",
    "QualityCriterion",
    "RPNHead",
    "ShapeMajorAnchors",
    "SoftNMS",
]
