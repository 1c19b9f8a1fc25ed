"""Public detectors as a start: converted back from foreign names, models compute what they did."""

from __future__ import annotations

import json
from functools import cache

import pytest
import torch
import torchvision
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from helpers import foreign
from helpers.tools import load_tool
from helpers.weights import randomize, same
from torch import Tensor, nn
from torchvision.models.detection import faster_rcnn, mask_rcnn, retinanet, rpn
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from ivtuning.checkpoint import load_weights
from ivtuning.checkpoint.conversion import FAMILIES, class_tensors, convert
from ivtuning.checkpoint.files import read_state
from ivtuning.config import load_config
from ivtuning.errors import UserError, run_tool
from ivtuning.hub.names import local_path, split_key, split_kind

DINO, CODINO = "configs/M3FD/dino_ivtuning_swin_l.py", "configs/M3FD/codetr_ivtuning_swin_l.py"
CASCADE, RETINANET = "configs/COCO/cascade_mask_rcnn_mona_swin_b.py", "configs/VOC/retinanet_mona_swin_l.py"
FASTER = "configs/M3FD/faster_rcnn_ivtuning_swin_b.py"


def set_(place: str, **options) -> list[str]:
    return [f"model.{place}{key}={value}" for key, value in options.items()]


TRUNK = set_("backbone.net.", embed_dim=8, depths="[2,1,1,1]", num_heads="[1,1,2,2]", window_size=3)
TRUNK += ["model.backbone.net.tuner.hidden_dim=4"]
QUERIES = set_(
    "transformer.",
    embed_dim=32,
    num_heads=2,
    feedforward_dim=16,
    encoder_layers=1,
    decoder_layers=2,
    num_queries=9,
)
TWO_MAPS = ["model.backbone.net.out_indices=[2,3]", "model.transformer.num_levels=3"]
SMALL = {
    DINO: [*TRUNK, *QUERIES, *TWO_MAPS],
    CODINO: [*TRUNK, *QUERIES, "model.roi_heads.box_head.fc_dims=[16,16]"],
    CASCADE: [
        *TRUNK[:-1],
        "model.backbone.out_channels=8",
        *(o for i in range(3) for o in set_(f"roi_heads.box_heads.{i}.", conv_dims=[8] * 4, fc_dims=[16])),
        f"model.roi_heads.mask_head.conv_dims={[8] * 5}",
    ],
    RETINANET: [
        *TRUNK[:-1],
        "model.backbone.out_channels=8",
        "model.backbone.top_block.in_channels=64",
        f"model.head.conv_dims={[8] * 4}",
    ],
    FASTER: [
        *TRUNK[:-1],
        "model.backbone.out_channels=8",
        *set_("roi_heads.box_head.", conv_dims=[8] * 4, fc_dims=[16]),
    ],
}


def build(config: str, *overrides: str) -> nn.Module:
    """A small detector of a config, all of it random."""
    torch.manual_seed(0)
    return randomize(instantiate(load_config(config, [*SMALL[config], *overrides]).model), 1).eval()


@cache
def reference(config: str, *overrides: str) -> tuple[nn.Module, set[str]]:
    cfg = load_config(config, [*SMALL[config], *overrides])
    with torch.device("meta"):
        model = instantiate(cfg.model)
    return model, class_tensors(cfg.model, model)


def converted(kind: str, state: dict[str, Tensor], config: str, *overrides: str):
    return convert(dict(state), FAMILIES[kind], FAMILIES, *reference(config, *overrides), source="file")


def plain(model: nn.Module) -> dict[str, Tensor]:
    """What a foreign detector has of a model: neither stem nor tuner."""
    return {n: t for n, t in model.state_dict().items() if n.split(".")[2:3] not in (["stem"], ["tuner"])}


def tool(*arguments) -> int:
    module = load_tool("convert_checkpoint")
    with pytest.raises(SystemExit) as end:
        run_tool(module.main, list(map(str, arguments)))
    return end.value.code


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_dino_through_the_tool(tmp_path, capsys, suffix):
    source = build(DINO)
    torch.save({"model": foreign.idea(plain(source), layers=2), "epoch": 3}, tmp_path / "in.pth")
    out = tmp_path / "new" / f"out.{suffix}"
    # Words in any order.
    words = ["--from", "dino", tmp_path / "in.pth", out, "--config-file", DINO, *SMALL[DINO]]
    assert tool(*words[:3], *SMALL[DINO], *words[3:6], "--json") == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert same(read_state(out), plain(source))
    assert printed["class_layers"] == printed["misfits"] == printed["missing"] == []
    assert len(printed["taken"]) == len(plain(source)) and 0 < printed["renamed"] < len(printed["taken"])
    assert all(n.startswith("backbone.0.") and n.endswith("index") for n in printed["unused"])
    assert len(printed["unused"]) == 5

    ours = build(DINO)
    randomize(ours, 2)
    ours.backbone.net.stem.load_state_dict(source.backbone.net.stem.state_dict())
    ours.backbone.net.tuner.load_state_dict(source.backbone.net.tuner.state_dict())
    report = load_weights(ours, out, strict=False)
    assert {n.split(".")[2] for n in report.fresh} == {"stem", "tuner"}
    pair = {name: torch.full((3, 100, 136), 90, dtype=torch.uint8) for name in ("image", "image_ir")}
    with torch.no_grad():
        expected, predicted = (m([pair])[0]["instances"] for m in (source, ours))
    assert torch.equal(predicted.scores, expected.scores) and len(predicted.scores)
    assert torch.equal(predicted.pred_boxes.tensor, expected.pred_boxes.tensor)


def test_other_classes_start_anew(tmp_path, capsys):
    torch.save({"model": foreign.idea(plain(build(DINO, "model.num_classes=9")), 2)}, tmp_path / "in.pth")
    out = tmp_path / "out.safetensors"
    assert tool("--from", "dino", tmp_path / "in.pth", out, "--config-file", DINO, *SMALL[DINO]) == 0
    text = capsys.readouterr().out
    assert "made for other classes: transformer.decoder.class_embed.0.weight: 9x32 in the file, 6x32" in text
    assert "class layers, as initialized            5" in text and "stem and tuner, as initialized" in text
    model = build(DINO)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    report = load_weights(model, out, strict=False)
    classes = reference(DINO)[1]
    assert len(classes) == 5 and classes == {n for n in report.fresh if not n.startswith("backbone.")}
    assert all(torch.equal(model.state_dict()[n], before[n]) for n in classes)


def full_size_idea() -> dict[str, Tensor]:
    """Names and sizes of IDEA-Research/DINO's Swin-L with five scales and 91 classes, nothing in memory."""
    with torch.device("meta"):
        model = instantiate(load_config(DINO, ["model.num_classes=91", *NO_PLUGS]).model)
        return foreign.idea(plain(model), layers=6)


def test_full_size_names_of_dino():
    state = full_size_idea()
    assert len(state) == 722 and sum("_index" in n for n in state) == 24
    assert state["class_embed.5.weight"].shape == (91, 256) and state["label_enc.weight"].shape == (92, 256)
    with torch.device("meta"):
        model = instantiate(load_config(DINO).model)
    classes = {"label_enc.weight"} | {
        f"transformer.{part}.{tensor}"
        for part in ("decoder.class_embed.0", "enc_out_class_embed")
        for tensor in ("weight", "bias")
    }
    new, report = convert(state, FAMILIES["dino"], FAMILIES, model, classes)
    assert new.keys() | classes == plain(model).keys() and not new.keys() & classes
    assert {line.split(":")[0] for line in report.class_layers} == classes
    assert report.misfits == report.missing == report.zero == []
    assert len(report.unused) == 24 and report.plugins


def test_heads_that_differ_are_reported(tmp_path):
    state = foreign.idea(plain(build(DINO)), 2)
    for place in ("", "transformer.decoder."):
        state[f"{place}bbox_embed.1.layers.0.bias"] = torch.ones(32)
    new, report = converted("dino", state, DINO)
    assert torch.equal(
        new["transformer.decoder.bbox_embed.0.layers.0.bias"], state["bbox_embed.0.layers.0.bias"]
    )
    assert len(report.notes) == 1 and "its own bbox_embed" in report.notes[0]
    new, report = converted("dino", state, DINO, "model.transformer.share_heads=False")
    assert new["transformer.decoder.bbox_embed.1.layers.0.bias"].eq(1).all() and not report.notes


def test_file_of_fewer_scales_is_reported():
    state = foreign.idea(plain(build(DINO)), 2)
    _, report = converted("dino", state, DINO, "model.transformer.num_levels=4")
    assert any(line.startswith("transformer.level_embed: 3x32 in the file, 4x32") for line in report.misfits)
    assert "neck.3.0.weight" in report.missing and "of another kind, as initialized" in str(report)


UNSHARED = "model.transformer.share_heads=False"


@pytest.mark.parametrize(
    ("kind", "config", "names"),
    [
        ("detrex-dino", DINO, foreign.detrex),
        ("codino", DINO, foreign.mmdet_dino),
        ("codino", CODINO, foreign.sense_x),
    ],
)
def test_queries_of_other_projects(kind, config, names):
    source = build(config, UNSHARED)
    expected = plain(source)
    if names is foreign.mmdet_dino:
        expected |= {
            n: torch.zeros_like(t)
            for n, t in expected.items()
            if n.startswith("neck.") and n.endswith("0.bias")
        }
    if config == DINO:
        # The row that nobody uses; these files have none.
        expected["label_enc.weight"] = torch.cat([expected["label_enc.weight"][:-1], torch.zeros(1, 32)])
    new, report = converted(
        kind, names(plain(source), layers=2, maps=2 if config == DINO else 4), config, UNSHARED
    )
    assert same(new, expected)
    assert report.missing == report.misfits == report.class_layers == [] and len(report.unused) == 5
    assert len(report.zero) == (3 if names is foreign.mmdet_dino else 0)


def test_labels_of_one_class_more_are_not_taken_for_ours():
    """7 rows are those of 7 classes in mmdetection and of 6 in IDEA-Research's code."""
    state = foreign.mmdet_dino(plain(build(DINO, UNSHARED, "model.num_classes=7")), layers=2, maps=2)
    assert len(state["dn_query_generator.label_embedding.weight"]) == 7
    new, report = converted("codino", state, DINO, UNSHARED)
    assert "label_enc.weight" not in new
    assert "label_enc.weight: 7 classes in the file, 6 in the model" in report.class_layers


def test_cascade_of_mmdetection():
    source = build(CASCADE)
    new, report = converted("mmdet", foreign.mmdet_cascade(plain(source)), CASCADE)
    assert same(new, plain(source)) and report.missing == report.misfits == []
    assert report.notes == ["the last of the file's 3 mask heads is taken: the model has one"]
    # What it leaves: Swin's indices and two mask heads of four convolutions and two layers.
    assert len([n for n in report.unused if n.startswith("roi_head.mask_head.")]) == 2 * 12
    assert len(report.unused) == 5 + 24


def test_boxes_that_classes_share_are_repeated():
    state = foreign.mmdet_cascade(plain(build(CASCADE)))
    shared = {n: torch.randn(4, *t.shape[1:]) for n, t in state.items() if ".fc_reg." in n}
    few = "model.roi_heads.num_classes=3"
    new, report = converted("mmdet", state | shared, CASCADE, few)
    for stage in range(3):
        weight = new[f"roi_heads.box_predictor.{stage}.bbox_pred.weight"]
        assert torch.equal(weight, shared[f"roi_head.bbox_head.{stage}.fc_reg.weight"].repeat(3, 1))
        assert f"roi_heads.box_predictor.{stage}.cls_score.weight" not in new
    assert sum("repeated" in note for note in report.notes) == 1


def test_retinanet_of_mmdetection():
    source = build(RETINANET)
    new, report = converted("mmdet", foreign.mmdet_retinanet(plain(source)), RETINANET)
    assert same(new, plain(source)) and report.missing == report.misfits == []
    assert "P7" in report.notes[0]


def test_a_norm_of_another_kind_is_not_taken():
    """Batch norms of a file are no layer norms: detectron2 calls both `norm`."""
    state = foreign.mmdet_cascade(plain(build(CASCADE)))
    state = {n.replace("bbox_head.0.", "bbox_head."): t for n, t in state.items() if "bbox_head.1" not in n}
    new, report = converted("mmdet", state, FASTER)
    assert "roi_heads.box_head.conv1.weight" in new
    assert "roi_heads.box_head.conv1.norm.weight" not in new
    assert "roi_heads.box_head.conv1.norm.running_mean: in the file alone" in report.misfits


def test_detectron2s_own():
    source = build(CASCADE)
    state = foreign.renamed(plain(source), [(r"^backbone\.net\.", "backbone.bottom_up.")])
    new, report = converted("detectron2", foreign.with_buffers(state, "backbone.bottom_up."), CASCADE)
    assert same(new, plain(source)) and report.missing == [] and len(report.unused) == 5


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


NO_PLUGS = ["model.backbone.net.stem=VisibleOnly", "model.backbone.net.tuner=Frozen"]


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


REFUSED = {
    "another family": ("mmdet", foreign.idea, DINO, "no checkpoint of .*mmdetection: give --from dino .IDEA"),
    "no family": (
        "dino",
        lambda s, n: {"x.y": torch.ones(1)},
        DINO,
        "nor of any known kind: its first names are x.y",
    ),
    "another backbone": (
        "dino",
        lambda s, n: {k.replace("patch_embed", "stem"): t for k, t in foreign.idea(s, n).items()},
        DINO,
        "no checkpoint of IDEA-Research/DINO on a backbone that is known here",
    ),
    "nearest family": (
        "mmdet",
        lambda s, n: {k: t for k, t in foreign.idea(s, n).items() if not k.startswith("backbone")},
        DINO,
        "nearest is --from d.* whose backbone it lacks",
    ),
    "another detector": (
        "dino",
        foreign.idea,
        CASCADE,
        "fits 0 of the .* take a config of the file's detector",
    ),
    "another trunk": (
        "dino",
        lambda s, n: {k: t for k, t in foreign.idea(s, n).items() if ".blocks.1." not in k},
        DINO,
        r"has 1-1-1-1 blocks, the trunk 2-1-1-1: set depths=\[1, 1, 1, 1\]",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    kind, make, config, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as error:
        converted(kind, make(plain(build(DINO)), 2), config)
    assert str(error.value).startswith("file: ") and "\n" not in str(error.value)


def test_wrong_commands_end_in_one_line_and_write_nothing(tmp_path, capsys):
    source, out = tmp_path / "in.pth", tmp_path / "out.safetensors"
    torch.save({"x.y": torch.ones(1)}, source)
    before = source.read_bytes()
    for words, message in (
        (["--from", "dino", source, out], "nor of any known kind"),
        (["--from", "dino", source, tmp_path / "out.bin"], "ends in .safetensors or .pth"),
        (["--from", "dino", source, source], "is the file to read"),
        (["--from", "dino", tmp_path / "none.pth", out], "no file"),
        (["--from", "dino", source, out, "third"], "give INPUT and OUTPUT"),
        (["--from", "dine", source, out], "invalid choice: 'dine'"),
        (["--from", "dino", source], "OUTPUT"),
    ):
        assert tool(*words, "--config-file", DINO, *SMALL[DINO]) == 1
        text = capsys.readouterr().err
        assert text.startswith("error: ") and message in text and len(text.splitlines()) == 1
    assert source.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["in.pth"]


def test_kinds_of_the_tool_are_the_families():
    module = load_tool("convert_checkpoint")
    assert list(module.KINDS) == list(FAMILIES)


def test_configs_start_from_detectors_that_are_converted():
    for config, kind in ((DINO, "detrex-dino"), (CODINO, "codino")):
        start = load_config(config, ["method=Full"]).train.init_checkpoint
        assert split_kind(start)[0] == kind and split_key(start)[0].startswith("https://")
    file = "detrex-dino+https://a.org/b.pth"
    assert load_config(DINO, [f"train.init_checkpoint={file}"]).train.init_checkpoint == file


def test_a_detector_is_converted_when_it_is_loaded(tmp_path):
    source, file = build(DINO), tmp_path / "in.pth"
    torch.save({"model": foreign.idea(plain(source), layers=2), "epoch": 3}, file)
    cfg = load_config(DINO, SMALL[DINO])
    torch.manual_seed(1)
    model = instantiate(cfg.model)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(UserError, match=r"in\.pth: only a run"):
        load_weights(model, f"dino+{file}", strict=False)
    with pytest.raises(UserError, match="give --from dino"):
        load_weights(model, f"mmdet+{file}", strict=False, cfg_model=cfg.model)
    with pytest.raises(UserError, match=r"no file .*none\.pth"):
        local_path(f"dino+{tmp_path / 'none.pth'}")
    with pytest.raises(UserError, match="leaves .* unfilled: backbone.net.stem"):
        load_weights(model, f"dino+{file}", cfg_model=cfg.model)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    report = load_weights(model, f"dino+{file}", strict=False, cfg_model=cfg.model)
    assert {n.split(".")[2] for n in report.fresh} == {"stem", "tuner"}
    assert same(plain(model), plain(source))
    assert model.backbone.net.base_file == "in.pth"
