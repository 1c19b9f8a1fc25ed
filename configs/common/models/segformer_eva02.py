"""SegFormer's decoder on EVA-02-L: the maps of four blocks, all of one size, 768 channels."""

from detectron2.config import LazyCall as L

from ivtuning.backbones.eva import Eva02
from ivtuning.heads.segmentation.segformer import SegFormer
from ivtuning.tuning import IVTuning
from ivtuning.tuning.stems import PromptStem

from .segmentor import model

out_indices = (7, 11, 15, 23)
model.backbone.net = L(Eva02)(
    stem=L(PromptStem)(), tuner=L(IVTuning)(), img_size=512, drop_path_rate=0.1, out_indices=out_indices
)
model.sem_seg_head.decoder = L(SegFormer)(
    in_features=[f"block{i}" for i in out_indices],
    in_channels=[1024] * len(out_indices),
    num_classes="${..num_classes}",
)
# The authors' file, with patches of 16 pixels.
WEIGHTS = "hf://Yuxin-CV/EVA-02/eva02/pt/eva02_L_pt_m38m_p14to16.pt"
