"""Detectors of torchvision: converted, they compute the same, anchor by anchor."""

from __future__ import annotations

import torch
import torchvision
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from helpers import foreign
from helpers.conversion import FASTER, NO_PLUGS, RETINANET, SMALL, build, converted
from helpers.weights import randomize
from torch import Tensor, nn
from torchvision.models.detection import faster_rcnn, mask_rcnn, retinanet, rpn
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from ivtuning.checkpoint.conversion import FAMILIES, convert
from ivtuning.config import load_config


class Body(nn.Module):
    """Maps of torchvision's Swin, as users of its detectors make them."""

    def __init__(self, stages: list[int]):
        super().__init__()
        size = dict(patch_size=[4, 4], embed_dim=8, window_size=[3, 3], stochastic_depth_prob=0.0)
        self.features = SwinTransformer(depths=[2, 1, 1, 1], num_heads=[1, 1, 2, 2], **size).features
        self.stages = stages

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = {}
        for i, part in enumerate(self.features):
            x = part(x)
            if i % 2 and i // 2 in self.stages:
                maps[str(i // 2)] = x.permute(0, 3, 1, 2)
        return maps


class TorchvisionBackbone(nn.Module):
    def __init__(self, stages: list[int], extra: nn.Module | None):
        super().__init__()
        self.body = Body(stages)
        self.fpn = FeaturePyramidNetwork([8 * 2**i for i in stages], 8, extra)
        self.out_channels = 8

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.fpn(self.body(x))


def loaded(new: dict[str, Tensor], config: str, *overrides: str) -> nn.Module:
    model = build(config, *overrides)
    model.backbone.net.load_state_dict(
        {n.removeprefix("backbone.net."): t for n, t in new.items() if n.startswith("backbone.net.")}
    )
    report = model.load_state_dict(new, strict=False)
    assert not report.unexpected_keys
    return model.eval()


@torch.no_grad()
def test_retinanet_of_torchvision():
    anchors = torchvision.models.detection.anchor_utils.AnchorGenerator(
        tuple((x, x * 2 ** (1 / 3), x * 2 ** (2 / 3)) for x in (32, 64, 128, 256, 512)),
        ((0.5, 1.0, 2.0),) * 5,
    )
    backbone = TorchvisionBackbone([1, 2, 3], LastLevelP6P7(64, 8))
    theirs = randomize(retinanet.RetinaNet(backbone, num_classes=4, anchor_generator=anchors), 1).eval()
    overrides = [*NO_PLUGS, "model.num_classes=3", "model.backbone.net.output_norms=False"]
    new, report = converted("torchvision", theirs.state_dict(), RETINANET, *overrides)
    assert report.missing == report.misfits == report.class_layers == []
    ours = loaded(new, RETINANET, *overrides)
    image = torch.randn(1, 3, 128, 128)
    expected, maps_of_ours = list(backbone(image).values()), list(ours.backbone(image).values())
    for a, b in zip(maps_of_ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    scores = theirs.head(expected)["cls_logits"][0, :, 1:]
    deltas = theirs.head(expected)["bbox_regression"][0]
    places = torch.cat([a.tensor for a in ours.anchor_generator(maps_of_ours)])
    logits, shifts = (
        torch.cat([t[0].unflatten(0, (9, -1)).permute(2, 3, 0, 1).flatten(0, 2) for t in maps])
        for maps in ours.head(maps_of_ours)
    )
    # The same anchor says the same, wherever each project lists it.
    images = torchvision.models.detection.image_list.ImageList(image, [(128, 128)])
    their_places = theirs.anchor_generator(images, expected)[0]
    order = torch.cdist(places, their_places).argmin(1)
    assert sorted(order.tolist()) == list(range(len(places))) and order.tolist() != list(range(len(places)))
    torch.testing.assert_close(logits, scores[order], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(shifts, deltas[order], rtol=1e-4, atol=1e-4)


def test_mask_rcnn_of_torchvision():
    """Class 0 is the background there, and the batch norms of its box head are no layer norms."""
    theirs = mask_rcnn.MaskRCNN(
        TorchvisionBackbone([0, 1, 2, 3], None),
        rpn_head=rpn.RPNHead(8, 3, conv_depth=2),
        box_head=faster_rcnn.FastRCNNConvFCHead((8, 7, 7), [8] * 4, [16], norm_layer=nn.BatchNorm2d),
        box_predictor=faster_rcnn.FastRCNNPredictor(16, 4),
        mask_head=mask_rcnn.MaskRCNNHeads(8, [8] * 4, 1),
        mask_predictor=mask_rcnn.MaskRCNNPredictor(8, 8, 4),
    )
    state = randomize(theirs, 1).state_dict()
    cfg = load_config(FASTER, [*SMALL[FASTER], *NO_PLUGS, "model.roi_heads.num_classes=3"])
    with torch.device("meta"):
        model = instantiate(cfg.model)
        shape = ShapeSpec(channels=8, height=14, width=14)
        model.roi_heads.mask_head = MaskRCNNConvUpsampleHead(shape, num_classes=3, conv_dims=[8] * 5)
    new, report = convert(state, FAMILIES["torchvision"], FAMILIES, model, set())
    predictor = "roi_heads.box_predictor."
    assert torch.equal(new[f"{predictor}cls_score.bias"], state[f"{predictor}cls_score.bias"][[1, 2, 3, 0]])
    assert torch.equal(new[f"{predictor}bbox_pred.weight"], state[f"{predictor}bbox_pred.weight"][4:])
    masks = "roi_heads.mask_predictor.mask_fcn_logits.weight"
    assert torch.equal(new["roi_heads.mask_head.predictor.weight"], state[masks][1:])
    assert torch.equal(new["roi_heads.mask_head.mask_fcn4.bias"], state["roi_heads.mask_head.3.0.bias"])
    assert torch.equal(new["roi_heads.box_head.fc1.weight"], state["roi_heads.box_head.5.weight"])
    conv = "proposal_generator.rpn_head.conv.conv1.weight"
    assert torch.equal(new[conv], state["rpn.head.conv.1.0.weight"])
    assert report.class_layers == [] and {n.split(":")[0].split(".")[3] for n in report.misfits} == {"norm"}
    assert all(n.startswith("backbone.net.norm") for n in report.missing)


def test_older_names_of_torchvision():
    """Convolutions stood bare before they came in blocks; RetinaNet has none of stride 4."""
    bare = ("backbone.fpn.inner_blocks.0", "backbone.fpn.layer_blocks.0", "rpn.head.conv")
    state = {f"{name}.weight": torch.ones(8, 16, 1, 1) for name in bare}
    state["backbone.body.patch_embed.proj.weight"] = torch.ones(8, 3, 4, 4)
    assert list(foreign.renamed(state, FAMILIES["torchvision"].rules(state))) == [
        "backbone.fpn_lateral3.weight",
        "backbone.fpn_output3.weight",
        "proposal_generator.rpn_head.conv.weight",
        "backbone.net.patch_embed.proj.weight",
    ]
