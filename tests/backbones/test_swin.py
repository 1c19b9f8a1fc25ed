"""The Swin trunk: windows as the official code defines them, prompts by stage, freezing, counts, pyramid."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import instantiate
from detectron2.modeling import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.utils.events import EventStorage
from helpers.tiny import sample, swin

from ivtuning import compat
from ivtuning.backbones.attention import window as window_attention
from ivtuning.backbones.swin import SWIN_SIZES, Swin, SwinBlock, shift_mask
from ivtuning.config import load_config
from ivtuning.engine.optim import param_groups
from ivtuning.errors import UserError
from ivtuning.necks.feature_pyramid import FeaturePyramid
from ivtuning.tuning import Frozen, Full, IVTuning
from ivtuning.tuning.stems import STEMS, PromptStem, SumStem, VisibleOnly


@torch.no_grad()
def randomize(module, seed=0, scale=0.2):
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        if "norm" in name and name.endswith("weight"):
            parameter.add_(1)
    return module


@torch.no_grad()
def official_attention(block: SwinBlock, x: torch.Tensor) -> torch.Tensor:
    """Shifted-window attention from its definition, window by window: pad, then roll.

    A rolled map's position r is the padded map's (r + shift) % size; two tokens of a window see each other
    where both or neither have come around the edge, in each direction.
    """
    height, width, channels = x.shape[1:]
    window, shift, heads = block.window_size[0], block.shift_size[0], block.attn.num_heads
    down, right = (math.ceil(size / window) * window for size in (height, width))
    padded = x.new_zeros(len(x), down, right, channels)
    padded[:, :height, :width] = x
    out = torch.empty_like(padded)
    inside = torch.arange(window)
    row, column = (p.flatten() for p in torch.meshgrid(inside, inside, indexing="ij"))
    offset = (row[:, None] - row + window - 1) * (2 * window - 1) + column[:, None] - column + window - 1
    bias = block.attn.relative_position_bias_table[offset]  # (query, key, heads)
    for top in range(0, down, window):
        for left in range(0, right, window):
            y, x_ = top + row + shift, left + column + shift
            around = 2 * (y >= down) + (x_ >= right)
            hidden = torch.where(around[:, None] == around, 0.0, -100.0)
            tokens = padded[:, y % down, x_ % right]
            q, k, v = F.linear(tokens, block.attn.qkv.weight, block.attn.qkv.bias).chunk(3, -1)
            seen = []
            for head in range(heads):
                part = slice(head * channels // heads, (head + 1) * channels // heads)
                score = q[..., part] @ k[..., part].transpose(1, 2) * (channels // heads) ** -0.5
                seen.append((score + bias[..., head] + hidden).softmax(-1) @ v[..., part])
            out[:, y % down, x_ % right] = block.attn.proj(torch.cat(seen, -1))
    return out[:, :height, :width]


@pytest.mark.parametrize("size", [(30, 40), (5, 7), (120, 160), (24, 36)])
@pytest.mark.parametrize("window", [7, 12])
def test_windows_follow_the_official_order(size, window):
    torch.manual_seed(0)
    x = torch.randn(2 if size[0] < 100 else 1, *size, 8)
    for shift in (0, window // 2):
        block = randomize(SwinBlock(8, 2, window, shift)).eval()
        with torch.no_grad():
            got = block.attend(x)
        assert got.shape == x.shape
        torch.testing.assert_close(got, official_attention(block, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["tiles", "one window a tile", "torch's fused kernel"])
@pytest.mark.parametrize("shift", [0, 3])
def test_attention_has_timms_gradients(shift, form, monkeypatch):
    if form == "one window a tile":
        monkeypatch.setattr(window_attention, "TILE", 1)
    block = randomize(SwinBlock(16, 2, 7, shift))
    x = torch.randn(2, 12, 20, 16, requires_grad=True)
    grad = torch.randn(x.shape)
    wanted = [x, *block.attn.parameters()]
    with monkeypatch.context() as patch:
        if form == "torch's fused kernel":
            patch.setattr(torch.compiler, "is_compiling", lambda: True)
        out = block.attend(x)
    assert ("_TiledWindows" in graph_of(out)) == (form != "torch's fused kernel")
    grads = torch.autograd.grad(out, wanted, grad)
    block.set_attn_backend("plain")
    explicit = block.attend(x)
    torch.testing.assert_close(out, explicit, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grads, torch.autograd.grad(explicit, wanted, grad), rtol=1e-4, atol=1e-5)


def graph_of(out):
    names, left = "", [out.grad_fn]
    while left:
        node = left.pop()
        names += node.name()
        left += [n for n, _ in node.next_functions if n is not None]
    return names


@pytest.mark.parametrize("backend", ["auto", "plain", "fused"])
def test_only_plain_attention_keeps_scores(backend):
    """Even with a bias that trains."""
    block = randomize(SwinBlock(16, 2, 7, 3))
    block.set_attn_backend(backend)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        block.attend(torch.randn(2, 12, 20, 16, requires_grad=True))
    # 2 images of 2 x 3 windows, 2 heads, 49 tokens.
    assert (2 * 6 * 2 * 49**2 in kept) == (backend == "plain")


@pytest.mark.skipif(not compat.has_vit(), reason="this detectron2 has no Swin of its own")
@pytest.mark.parametrize("size", [(37, 53), (48, 48), (75, 100)])
def test_trunk_equals_detectron2s(size):
    from detectron2.modeling.backbone.swin import SwinTransformer

    theirs = SwinTransformer(
        embed_dim=8,
        depths=(2, 2, 2),
        num_heads=(1, 2, 4),
        window_size=3,
        drop_path_rate=0.0,
        out_indices=(0, 1, 2),
    )
    randomize(theirs).eval()
    ours = swin(VisibleOnly(), Frozen()).eval()
    state = {n: t for n, t in theirs.state_dict().items() if not n.endswith("relative_position_index")}
    ours.load_state_dict(state)
    x = torch.randn(2, 3, *size)
    a, b = ours(x), theirs(x)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5)
    assert {n: (s.channels, s.stride) for n, s in ours.output_shape().items()} == {
        n: (s.channels, s.stride) for n, s in theirs.output_shape().items()
    }


@pytest.mark.parametrize("size", [(48, 64), (33, 47), (5, 7), (1, 130)])
@pytest.mark.parametrize("stem", STEMS.values())
def test_any_size_and_stem(stem, size):
    out = swin(stem()).eval()(torch.randn(1, 6, *size))
    height, width = (math.ceil(s / 4) for s in size)
    for i, name in enumerate(("p0", "p1", "p2")):
        assert out[name].shape == (1, 8 * 2**i, height, width)
        height, width = (math.ceil(s / 2) for s in (height, width))


def test_infrared_embedding_has_a_norm_and_starts_from_the_visible_one_when_asked():
    trunk = randomize(swin(PromptStem(from_visible=True)))
    trunk.stem.base_loaded(trunk.patch_embed)
    for name, tensor in trunk.patch_embed.state_dict().items():
        assert torch.equal(trunk.stem.embed.state_dict()[name], tensor), name
    assert {"proj.weight", "norm.weight"} < set(trunk.stem.embed.state_dict())
    assert not any(p.requires_grad for p in trunk.patch_embed.parameters())
    assert all(p.requires_grad for p in trunk.stem.embed.parameters())


def test_zero_init_starts_as_the_frozen_trunk():
    torch.manual_seed(0)
    tuned, frozen = swin().eval(), swin(VisibleOnly(), Frozen()).eval()
    frozen.load_state_dict(tuned.state_dict(), strict=False)
    x = torch.randn(2, 6, 40, 52)
    for a, b in zip(tuned(x).values(), frozen(x).values(), strict=True):
        assert torch.equal(a, b)
    # Whatever the start, infrared has an influence once the prompt is not zero.
    torch.nn.init.ones_(tuned.stem.generator.out.weight)
    assert not torch.equal(tuned(x)["p2"], frozen(x)["p2"])


class Spy(IVTuning):
    """Records the arguments of every block's sites."""

    def __init__(self):
        super().__init__(hidden_dim=16, zero_init=False, backend="plain")  # others prepare it for many sites
        self.prompts, self.shapes = [], []

    def build_adapters(self, width):
        adapters = super().build_adapters(width)
        first, second = adapters.after_attention, adapters.after_mlp

        def after_attention(x, prompt):
            self.prompts.append(prompt)
            self.shapes.append(tuple(x.shape))
            return first(x, prompt)

        def after_mlp(y, x, prompt):
            assert prompt is self.prompts[-1]
            return second(y, x, prompt)

        adapters.after_attention, adapters.after_mlp = after_attention, after_mlp
        return adapters


@pytest.mark.parametrize("stem", [lambda: PromptStem(zero_init=False), SumStem])
def test_prompt_is_p0_in_the_first_stage_then_each_stages_merged_input(stem):
    torch.manual_seed(0)
    trunk = swin(stem(), Spy()).eval()
    merged = []
    for layer in trunk.layers[:-1]:
        layer.downsample.register_forward_hook(lambda module, args, out: merged.append(out))
    x = torch.randn(2, 6, 33, 47)
    trunk(x)
    start, p0 = trunk.stem(x[:, :3], x[:, 3:], trunk.patch_embed)
    expected = [start if p0 is None else p0, *merged]
    assert len(trunk.tuner.prompts) == 6
    for i, prompt in enumerate(trunk.tuner.prompts):
        assert torch.equal(prompt, expected[i // 2]), i
    # Maps at their own size: neither padded to windows of 3 nor shifted in the batch's shape.
    assert trunk.tuner.shapes[::2] == [(2, 9, 12, 8), (2, 5, 6, 16), (2, 3, 3, 32)]


def test_all_trained_parameters_get_a_gradient_and_no_others():
    torch.manual_seed(0)
    trunk = swin(PromptStem(zero_init=False), IVTuning(hidden_dim=16, zero_init=False)).train()
    sum(y.square().sum() for y in trunk(torch.randn(2, 6, 56, 72)).values()).backward()
    for name, parameter in trunk.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert trunk.stem.embed.proj.weight.grad.abs().sum() > 0
    full = swin(SumStem(), Full()).train()
    sum(y.square().sum() for y in full(torch.randn(1, 6, 56, 72)).values()).backward()
    assert all(p.grad is not None for p in full.parameters())


def test_freezing_and_modes():
    trunk = swin(drop_path_rate=0.2).train()
    assert {n.split(".")[0] for n, p in trunk.named_parameters() if p.requires_grad} == {"stem", "tuner"}
    assert {n: m.training for n, m in trunk.named_children()} == {
        **dict.fromkeys(("patch_embed", "layers", "norm0", "norm1", "norm2"), False),
        **dict.fromkeys(("stem", "tuner"), True),
    }
    assert not any(m.training for m in trunk.layers.modules())
    assert swin(frozen_eval=False).train().layers[0].blocks[1].training
    full = swin(SumStem(), Full(), drop_path_rate=0.5).train()
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in full.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    x = torch.randn(4, 6, 24, 24)
    assert not torch.equal(full(x)["p2"], full(x)["p2"]) and full.norm0.weight.requires_grad
    assert torch.equal(full.eval()(x)["p2"], full(x)["p2"])


@pytest.mark.parametrize(
    "size, options, trainable, base",
    [
        ("swin_t", {}, 1_593_796, 27_520_698),
        ("swin_s", {}, 3_239_812, 48_838_602),
        ("swin_b", {}, 4_180_804, 86_745_016),
        ("swin_b_w12", {}, 4_180_804, 86_880_376),
        ("swin_l", {}, 6_062_788, 194_998_164),
        ("swin_l_w12", {}, 6_062_788, 195_201_204),
        ("swin_l", dict(out_indices=(3,)), 6_062_788, 194_995_476),
        ("swin_l", dict(out_indices=(1, 2, 3)), 6_062_788, 194_997_780),
        ("swin_l", dict(output_norms=False), 6_062_788, 194_998_164 - 5_760),
    ],
)
def test_published_counts(size, options, trainable, base):
    with torch.device("meta"):
        trunk = Swin(PromptStem(), IVTuning(), **SWIN_SIZES[size], **options)
    counts = (
        sum(p.numel() for p in trunk.parameters() if p.requires_grad),
        sum(p.numel() for p in trunk.base_parameters()),
    )
    assert counts == (trainable, base)


@pytest.mark.parametrize(
    "size, shared, without_affine",
    [
        ("swin_t", 800_740, 1_576_132),
        ("swin_s", 1_623_748, 3_203_716),
        ("swin_b", 2_095_492, 4_132_676),
        ("swin_l", 3_038_980, 5_990_596),
    ],
)
def test_counts_of_variants(size, shared, without_affine):
    for options, expected in ((dict(share_sites=True), shared), (dict(post_affine=False), without_affine)):
        with torch.device("meta"):
            trunk = Swin(PromptStem(), IVTuning(**options), **SWIN_SIZES[size])
        assert sum(p.numel() for p in trunk.parameters() if p.requires_grad) == expected


def test_layer_decay_and_weight_decay():
    trunk = swin(SumStem(), Full())
    model = torch.nn.ModuleDict({"net": trunk})
    groups = param_groups(model, 1.0, 0.05, layer_decay=0.5)
    groups_of = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    at = {n: groups_of[id(p)] for n, p in trunk.named_parameters()}
    assert at["patch_embed.proj.weight"] == (0.5**7, 0.05)
    assert at["layers.0.blocks.0.mlp.fc1.weight"] == (0.5**6, 0.05)
    assert at["layers.1.blocks.0.attn.relative_position_bias_table"] == (0.5**4, 0.0)
    assert at["layers.1.blocks.1.norm2.weight"] == at["layers.1.downsample.norm.weight"] == (0.5**3, 0.0)
    assert at["layers.2.blocks.1.attn.qkv.weight"] == (0.5, 0.05)
    assert at["norm2.weight"] == (1.0, 0.0) and at["stem.embed.proj.weight"] == (1.0, 0.05)


def test_masks_are_kept_and_serve_training_after_inference():
    shift_mask.cache_clear()
    trunk, x = swin(SumStem(), Full()), torch.randn(1, 6, 40, 52)
    with torch.inference_mode():
        trunk(x)
    trunk(x)["p2"].sum().backward()
    assert (shift_mask.cache_info().misses, shift_mask.cache_info().hits) == (3, 3)
    mask = shift_mask(6, 9, 3, 1, x.device, torch.float16)
    assert mask.shape == (6, 9, 9) and mask.dtype is torch.float16
    assert not mask[0].any() and mask[5].any() and torch.equal(mask, mask.transpose(1, 2))
    assert swin().bfloat16().eval()(x.bfloat16())["p2"].dtype is torch.bfloat16


def test_output_norms_are_the_identity_or_absent():
    trunk = swin(out_indices=(2, 0))
    names = {n for n, _ in trunk.named_base_parameters() if n.startswith("norm")}
    assert names == {"norm0.weight", "norm0.bias", "norm2.weight", "norm2.bias"}
    assert not any(p.requires_grad for p in (*trunk.norm0.parameters(), *trunk.norm2.parameters()))
    assert list(trunk.eval()(torch.randn(1, 6, 32, 32))) == ["p0", "p2"] == list(trunk.output_shape())
    plain = swin(output_norms=False)
    assert not any(n.startswith("norm") for n, _ in plain.named_base_parameters())
    plain.load_state_dict(trunk.state_dict(), strict=False)
    x = torch.randn(1, 6, 32, 32)
    raw = plain.eval()(x)["p2"]
    normed = F.layer_norm(raw.permute(0, 2, 3, 1), (32,)).permute(0, 3, 1, 2)
    torch.testing.assert_close(trunk(x)["p2"], normed)


def test_wrong_options_are_reported():
    with pytest.raises(UserError, match="names stage 3, the trunk has 3"):
        swin(out_indices=(0, 3))
    with pytest.raises(UserError, match="window_size=0: give a whole number from 1"):
        swin(window_size=0)
    with pytest.raises(UserError, match="depths has 2 stages, num_heads 3"):
        swin(depths=(2, 2))


def test_pyramid_is_detectron2s_with_the_trunk_at_net():
    stages = dict(depths=(1,) * 4, num_heads=(1,) * 4, out_indices=range(4))
    net = swin(VisibleOnly(), Frozen(), **stages).eval()
    ours = randomize(FeaturePyramid(net, 16, LastLevelMaxPool())).eval()
    theirs = FPN(net, ["p0", "p1", "p2", "p3"], 16, top_block=LastLevelMaxPool()).eval()
    state = {n.replace("net.", "bottom_up.", 1): t for n, t in ours.state_dict().items()}
    assert {n.split(".")[0] for n in ours.state_dict()} >= {"net", "fpn_lateral2", "fpn_output5"}
    theirs.load_state_dict(state)
    x = torch.randn(1, 3, 32, 64)
    a, b = ours(x), theirs(x)
    assert list(a) == list(b) == list(ours.output_shape())
    assert all(torch.equal(a[n], b[n]) for n in b)
    assert ours.size_divisibility == 32 and ours.bottom_up is ours.net


SWIN_DETECTOR = "configs/M3FD/faster_rcnn_ivtuning_swin_b.py"


def swin_detector(method: str):
    """The M3FD detector, small."""
    small = dict(embed_dim=8, num_heads="[1,2,4,8]", depths="[2,2,2,2]", window_size=3)
    overrides = [f"model.backbone.net.{k}={v}" for k, v in small.items()]
    overrides += ["model.backbone.out_channels=16", "model.roi_heads.box_head.conv_dims=[16]"]
    overrides += ["model.roi_heads.box_head.fc_dims=[32]"]
    return load_config(SWIN_DETECTOR, [f"method={method}", *overrides])


@pytest.mark.parametrize("method", ["IVTuning", "Full"])
def test_detector_learns_and_detects(method):
    torch.manual_seed(0)
    model = instantiate(swin_detector(method).model).train()
    with EventStorage():
        losses = model([sample(), sample(80, 72, seed=1)])
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    result = model.eval()([sample(33, 50)])[0]["instances"]
    assert result.image_size == (33, 50)


def test_rows_share_everything_but_stem_and_tuner():
    tuned, full = (load_config(SWIN_DETECTOR, [f"method={method}"]) for method in ("IVTuning", "Full"))
    augmentations = tuned.dataloader.train.mapper.augmentations
    assert augmentations[1].target_height == 640 and tuple(augmentations[2].crop_size) == (640, 640)
    assert tuned.dataloader.test.mapper.augmentations[0].max_size == 640
    for cfg in (tuned, full):
        del cfg.model.backbone.net.stem, cfg.model.backbone.net.tuner, cfg.train.output_dir
    assert tuned == full
    # The pieces that these rows change are not shared with other experiments.
    other = load_config("configs/M3FD/vitdet_ivtuning_b.py")
    assert other.dataloader.train.mapper.augmentations[1].target_height == 1024
    assert other.model.square_pad == 1024
