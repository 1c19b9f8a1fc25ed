"""Whole tuned trunks, written out from the equations of docs/method.md.

Of the package only the frozen base's branches are used here, which other tests compare with timm and
detectron2. What a method adds is computed from its bare weights, and where it is added is spelled out.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.tiny import TRUNKS
from ivtuning.tuning import Frozen
from ivtuning.tuning.stems import VisibleOnly


class Weights:
    """Weights by name, below a prefix, and the functions that they define."""

    def __init__(self, state: dict[str, Tensor], prefix: str = ""):
        self.state, self.prefix = state, prefix

    def __getitem__(self, name: str) -> Tensor:
        return self.state[self.prefix + name]

    def below(self, name: str) -> Weights:
        return Weights(self.state, f"{self.prefix}{name}.")

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self[f"{name}.weight"].flatten(1).T + self[f"{name}.bias"]

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return x * self[f"{name}.weight"] + self[f"{name}.bias"]

    def batch_norm(self, name: str, x: Tensor) -> Tensor:
        deviation = (self[f"{name}.running_var"] + 1e-5).sqrt()
        x = (x - self[f"{name}.running_mean"]) / deviation
        return x * self[f"{name}.weight"] + self[f"{name}.bias"]

    def depthwise(self, name: str, x: Tensor) -> Tensor:
        weight = self[f"{name}.weight"]
        channels, _, size, _ = weight.shape
        x = x.permute(0, 3, 1, 2)
        x = F.conv2d(x, weight, self[f"{name}.bias"], padding=size // 2, groups=channels)
        return x.permute(0, 2, 3, 1)


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / 2**0.5)) / 2


def simam(q: Tensor) -> Tensor:
    v = (q - q.mean((1, 2), keepdim=True)).square()
    n = q.shape[1] * q.shape[2] - 1
    return q * torch.sigmoid(v / (4 * (v.sum((1, 2), keepdim=True) / n + 1e-4)) + 0.5)


def hybrid_operation(w: Weights, u: Tensor) -> Tensor:
    part = u.shape[-1] // 4
    y = torch.cat([w.depthwise("depthwise", u[..., :part]), u[..., part:]], -1) + u
    return w.linear("conv2", w.batch_norm("norm", w.linear("conv1", y)).relu()) + y


def transform(w: Weights, x: Tensor) -> Tensor:
    return w.layer_norm("transform.norm", x) * w["transform.gamma"] + w["transform.beta"]


def hybrid_adapter(w: Weights, x: Tensor) -> Tensor:
    return x + w.linear("up", gelu(hybrid_operation(w.below("mix"), w.linear("down", transform(w, x)))))


def prompt_adapter(w: Weights, p: Tensor) -> Tensor:
    y = w.linear("up", gelu(simam(w.linear("down", transform(w, p)))))
    return gelu(y * w["scale.gamma"] + w["scale.beta"])


def mona(w: Weights, x: Tensor) -> Tensor:
    z = w.linear("down", w["gamma"] * w.layer_norm("norm", x) + w["gammax"] * x)
    z = z + sum(w.depthwise(f"mix.depthwise.{i}", z) for i in range(3)) / 3
    return x + w.linear("up", gelu(z + w.linear("mix.pointwise", z)))


def bottleneck(w: Weights, x: Tensor) -> Tensor:
    return w.linear("up", gelu(w.linear("down", x)))


def tuned_block(block: nn.Module, method: str, w: Weights, x: Tensor, p: Tensor, size, **options) -> Tensor:
    """One block on maps, or on tokens whose last h w are the patches; `p` is the prompt, a map."""

    prefix = 0 if x.dim() == 4 else x.shape[1] - size[0] * size[1]

    def patches(t: Tensor) -> Tensor:
        return t if t.dim() == 4 else t[:, prefix:].unflatten(1, size)

    def at_patches(change, t: Tensor) -> Tensor:
        m = change(patches(t))
        return m if t.dim() == 4 else torch.cat([t[:, :prefix], m.flatten(1, 2)], 1)

    def after_branch(number: int, t: Tensor) -> Tensor:
        own = w.below(f"adapter{number}")
        if method == "Mona":
            return at_patches(lambda m: mona(own, m), t)
        if method == "IVTuning":
            prompt = prompt_adapter(w.below(f"prompt{number}"), p)
            return at_patches(lambda m: hybrid_adapter(own, m) + prompt, t)
        return t

    def on_branch(number: int, t: Tensor) -> Tensor:
        if method != "Adapter":
            return t
        return at_patches(lambda m: m + bottleneck(w.below(f"adapter{number}"), m), t)

    a = x + block.drop_path1(on_branch(1, block.ls1(block.attend(block.norm1(x), **options))))
    a = after_branch(1, a)
    b = a + block.drop_path2(on_branch(2, block.ls2(block.mlp(block.norm2(a)))))
    if method == "AdaptFormer":
        b = at_patches(lambda m: m + 0.1 * bottleneck(w.below("branch"), patches(a)), b)
    return after_branch(2, b)


def stem(net: nn.Module, base: nn.Module, w: Weights, x: Tensor) -> tuple[Tensor, Tensor | None]:
    visible, infrared = base.patch_embed(x[:, :3]), None
    kind = type(net.stem).__name__
    if kind == "VisibleOnly":
        return visible, None
    embed = copy.deepcopy(base.patch_embed)
    embed.load_state_dict(net.stem.embed.state_dict())
    infrared = embed(x[:, 3:])
    if kind == "SumStem":
        return visible + infrared, None
    g, parts = (lambda t: w.layer_norm("norm", t)), w.below("generator")
    a = hybrid_operation(parts.below("mix"), parts.linear("visible", g(visible)))
    p0 = parts.linear("out", a + simam(parts.linear("infrared", g(infrared))))
    return visible + p0, p0


@torch.no_grad()
def reference(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What the trunk `net` of TRUNKS computes in eval mode from pairs (B, 6, H, W)."""
    kind, method = type(net).__name__, type(net.tuner).__name__
    state = net.state_dict()
    base = TRUNKS[kind](VisibleOnly(), Frozen()).eval()
    base.load_state_dict({n: t.clone() for n, t in state.items() if n in base.state_dict()})
    base.set_attn_backend("plain")
    for own, theirs in zip(base.blocks, net.blocks, strict=True):
        own.drop_path1, own.drop_path2 = theirs.drop_path1, theirs.drop_path2
    w = Weights(state)
    if method == "LoRA":
        add_low_rank(base, w.below("tuner.updates"), net.tuner.rank)
    x, p0 = stem(net, base, w.below("stem"), x)
    size = tuple(x.shape[1:3])

    def run(i: int, x: Tensor, p: Tensor, **options) -> Tensor:
        return tuned_block(base.blocks[i], method, w.below(f"tuner.blocks.{i}"), x, p, size, **options)

    if kind == "Swin":
        return swin_forward(base, run, x, p0)
    if kind != "DINOv3":
        positions = base.pos_embed[:, base.slots :]
        side = round(positions.shape[1] ** 0.5)
        grid = positions.unflatten(1, (side, side)).permute(0, 3, 1, 2)
        x = x + F.interpolate(grid, size, mode="bicubic", antialias=kind == "DINOv2").permute(0, 2, 3, 1)
    if kind == "ViTDet":
        for i in range(len(base.blocks)):
            x = run(i, x, p0 if i == 0 and p0 is not None else x)
        return {"last_feat": x.permute(0, 3, 1, 2)}
    options = {"rope": base.rope.get_embed(size)} if kind in ("Eva02", "DINOv3") else {}
    front = [base.cls_token, base.reg_token] if "DINO" in kind else [base.cls_token + base.pos_embed[:, :1]]
    prefix = sum(token.shape[1] for token in front)
    x = torch.cat([*(token.expand(len(x), -1, -1) for token in front), x.flatten(1, 2)], 1)
    outputs = {}
    for i in range(len(base.blocks)):
        patches = x[:, prefix:].unflatten(1, size)
        x = run(i, x, p0 if i == 0 and p0 is not None else patches, **options)
        if i in base.out_indices:
            y = base.norm(x) if "DINO" in kind else x
            outputs[f"block{i}"] = y[:, prefix:].unflatten(1, size).permute(0, 3, 1, 2)
    return outputs


def swin_forward(base: nn.Module, run, x: Tensor, p: Tensor | None) -> dict[str, Tensor]:
    outputs, i = {}, 0
    for stage, layer in enumerate(base.layers):
        p = x if stage or p is None else p
        for _ in layer.blocks:
            x, i = run(i, x, p), i + 1
        outputs[f"p{stage}"] = getattr(base, f"norm{stage}")(x).permute(0, 3, 1, 2)
        x = x if layer.downsample is None else layer.downsample(x)
    return outputs


def add_low_rank(base: nn.Module, w: Weights, rank: int) -> None:
    """Add B A / rank to the weights of query and value."""
    for i, block in enumerate(base.blocks):
        for j, target in ((0, "q"), (2, "v")):
            own = w.below(f"{i}.{target}")
            update = own["lora_B"] @ own["lora_A"] / rank
            if getattr(block.attn, f"{target}_proj", None) is not None:
                getattr(block.attn, f"{target}_proj").weight += update
            else:
                block.attn.qkv.weight.unflatten(0, (3, -1))[j] += update
