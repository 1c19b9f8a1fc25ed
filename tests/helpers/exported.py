"""Tiny detectors, their graphs as ONNX files, and what onnxruntime computes of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.structures import Instances
from torch import Tensor, nn
from torchvision.ops import box_iou

from ivtuning.config import load_config
from ivtuning.export.detectors import DetectorGraph
from ivtuning.export.detectors.translations import TRANSLATIONS

# How far the outputs of layers spread: those that predict classes, or boxes, and RetinaNet's others.
SPREAD = {
    r"cls_score|objectness_logits|class_embed": 4.0,
    r"bbox_pred|anchor_deltas|bbox_embed.*layers\.2": 0.5,
    r"_subnet": 1.5,
}
PAIRED = [f"model.pixel_mean={[110.0] * 6}", f"model.pixel_std={[55.0] * 6}"]
NANO = [
    f"model.backbone.net.{key}" for key in ("embed_dim=24", "num_heads=2", "depth=1", "global_blocks=[0]")
]
QUERIES = [
    f"model.transformer.{key}"
    for key in (
        "embed_dim=32",
        "feedforward_dim=48",
        "encoder_layers=1",
        "decoder_layers=2",
        "num_queries=40",
    )
]


class Pyramid(Backbone):
    """Maps named by log2 of their stride, each a 1x1 convolution of the image at its scale."""

    size_divisibility = 32

    def __init__(self, strides: Sequence[int], out_channels: int = 16):
        super().__init__()
        self.strides = {f"p{stride.bit_length() - 1}": stride for stride in strides}
        self.out_channels = out_channels
        self.maps = nn.ModuleDict({name: nn.Conv2d(6, out_channels, 1) for name in self.strides})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {
            name: self.maps[name](F.avg_pool2d(x, stride, ceil_mode=True)).tanh()
            for name, stride in self.strides.items()
        }

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {name: ShapeSpec(channels=self.out_channels, stride=s) for name, s in self.strides.items()}


def detector(config: str, *overrides: str, strides: Sequence[int] = ()) -> nn.Module:
    """The model of a config, seeded, on a :class:`Pyramid` of the given strides or else on its own trunk.

    Its last layers are random, so that scores spread over 0..1, boxes move, and many of them overlap.
    """
    cfg = load_config(f"configs/{config}.py", list(overrides))
    if strides:
        cfg.model.backbone = L(Pyramid)(strides=list(strides), out_channels=16)
        if "head" in cfg.model:  # RetinaNet's, which counts its maps
            cfg.model.head.input_shape = cfg.model.head.input_shape[: len(strides)]
    torch.manual_seed(0)
    model = instantiate(cfg.model).eval().requires_grad_(False)
    for name, module in model.named_modules():
        spread = [s for pattern, s in SPREAD.items() if re.search(pattern, name)]
        if spread and isinstance(module, (nn.Linear, nn.Conv2d)):
            module.weight.normal_(0, spread[0] / module.weight[0].numel() ** 0.5)
    return model


def faster_rcnn() -> nn.Module:
    """On ViTDet with IV-tuning."""
    return detector("synthetic/ivtuning", *NANO)


def mask_rcnn() -> nn.Module:
    return detector("quick/mask_rcnn", strides=(8, 16))


def cascade_rcnn() -> nn.Module:
    """Every class has boxes of its own, in all stages."""
    stages = [
        f"model.roi_heads.box_heads.{i}.{key}" for i in range(3) for key in ("conv_dims=[16]", "fc_dims=[32]")
    ]
    return detector(
        "common/models/cascade_mask_rcnn_swin",
        *(*stages, *PAIRED, "model.roi_heads.num_classes=4", "model.roi_heads.box_in_features=[p3,p4]"),
        *(f"model.roi_heads.mask_{part}=null" for part in ("in_features", "pooler", "head")),
        "model.roi_heads.box_pooler.scales=[0.125,0.0625]",
        "model.proposal_generator.in_features=[p3,p4]",
        "model.proposal_generator.anchor_generator.sizes=[[8],[24]]",
        "model.proposal_generator.anchor_generator.strides=[8,16]",
        "model.proposal_generator.post_nms_topk=[40,40]",
        strides=(8, 16),
    )


def retinanet() -> nn.Module:
    return detector(
        "common/models/retinanet_swin",
        *(*PAIRED, "model.num_classes=4", "model.head.conv_dims=[16]", "model.head_in_features=[p3,p4]"),
        "model.anchor_generator.sizes=[[8,12],[24,32]]",
        "model.anchor_generator.strides=[8,16]",
        "model.head.num_anchors=6",
        strides=(8, 16),
    )


def dino() -> nn.Module:
    return detector("synthetic/dino_ivtuning", *QUERIES, "model.transformer.num_levels=2", strides=(8, 16))


def codino() -> nn.Module:
    """With padding that counts as image, as in released models."""
    return detector(
        "synthetic/codetr_ivtuning",
        *(*QUERIES, "model.transformer.decoder_layers=1", "model.transformer.num_levels=2"),
        "model.pad_value=114",
        # What trains beside it counts its maps too.
        "model.proposal_generator.in_features=[p3,p4,p5]",
        "model.roi_heads.box_in_features=[p3,p4]",
        "model.roi_heads.box_pooler.scales=[0.125,0.0625]",
        *(
            f"model.{part}.anchor_generator.{key}"
            for part in ("proposal_generator", "atss")
            for key in ("sizes=[[12],[24],[48]]", "strides=[8,16,32]")
        ),
        strides=(8, 16),
    )


class Sized(nn.Module):
    """A graph on images of one size, which the rest of their batch pads."""

    def __init__(self, graph: DetectorGraph, image_size: tuple[int, int]):
        super().__init__()
        self.detector, self.image_size = graph, image_size

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.detector(images, self.image_size)


def write(
    model: nn.Module, images: Tensor, file: Path, dynamic: bool = False
) -> onnxruntime.InferenceSession:
    """Export `model` for `images`, with any batch if `dynamic`, and open the file."""
    shapes = {0: torch.export.Dim.DYNAMIC} if dynamic else None
    program = torch.export.export(model.eval(), (images,), dynamic_shapes=(shapes,), strict=False)
    exported = torch.onnx.export(
        program, dynamo=True, opset_version=18, custom_translation_table=TRANSLATIONS, verbose=False
    )
    assert {node.domain for node in exported.model.graph} == {""} and not exported.model.functions
    exported.save(file)
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def named(graph: DetectorGraph, outputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """The outputs of a graph by their names."""
    return dict(zip(graph.names, outputs, strict=True))


def run(session: onnxruntime.InferenceSession, images: Tensor) -> list[Tensor]:
    """What onnxruntime computes of `images`."""
    outputs = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    return [torch.from_numpy(np.array(output)) for output in outputs]


def assert_same_detections(
    outputs: dict[str, Tensor], expected: Sequence[Instances], above: float = 0.05
) -> None:
    """The padded detections are those of detectron2, as far as scores exceed `above`."""
    for image, instances in enumerate(expected):
        count = int(outputs["count"][image])
        padding = [value[image, count:] for name, value in outputs.items() if name != "count"]
        assert not any(value.any() for value in padding)
        found = {name: value[image, :count] for name, value in outputs.items() if name != "count"}
        scores = found["scores"]
        assert (scores[:-1] >= scores[1:]).all() and (scores > 0).all()
        instances = instances[instances.scores > above]
        count = int((scores > above).sum())
        assert count == len(instances) > 0
        overlap = box_iou(instances.pred_boxes.tensor, found["boxes"][:count])
        same = (overlap > 0.99) & (instances.pred_classes[:, None] == found["labels"][:count])
        same &= torch.isclose(instances.scores[:, None], scores[:count], rtol=1e-4, atol=1e-5)
        # Each is one of the other's, and by one alone.
        assert same.any(0).all() and same.any(1).all()
        if "masks" in outputs:
            pairs = same.float().argmax(1)
            masks = found["masks"][pairs]
            assert torch.allclose(masks, instances.mask_probabilities, atol=1e-4)
