"""The trunk: a pretrained transformer as a detectron2 backbone, with two plugins, a stem and a tuner."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from detectron2.modeling import Backbone
from torch import Tensor, nn

from ..errors import UserError
from ..tuning import TUNERS, Tuner
from ..tuning.base import PassAdapters, refuse_attached, set_frozen_eval
from ..tuning.options import need_choice
from ..tuning.stems import STEMS, Stem, VisibleOnly
from ..utils.precision import is_autocast_on
from .block import ACTIVATION_CHECKPOINTING

PLUGINS = ("stem", "tuner")
# The first parts of names of parameters in front of the blocks.
EMBEDDINGS = ("patch_embed", "pos_embed", "cls_token", "reg_token")


class Trunk(Backbone):
    """Base of all trunks. A subclass builds `patch_embed`, `blocks` and so on, then calls :meth:`attach`.

    `blocks` are its transformer blocks in the order they run: a ModuleList, or a property where they are kept
    by stage. A new trunk is one file with such a class, and entries in the table of presets.py.

    "Base" means everything but the plugins: what pretrained weights fill, and what stays frozen unless the
    tuner selects it.

    Args:
        frozen_eval: keep frozen parts in eval mode (no drop-path, no dropout) whatever ``train()`` says.
            False reproduces the papers' code, where the trunk's drop-path stays on in training.
        activation_checkpointing: which activations are recomputed in the backward pass instead of kept:
            None, "mlp" (those inside every MLP) or "block" (all but the inputs of blocks).
        attn_backend: how the blocks compute their attention, "auto", "plain", "fused" or, on ViTDet,
            "triton"; see :meth:`ivtuning.backbones.block.OpenBlock.set_attn_backend`.

    Attributes:
        residual_dtype: type of the residual stream under autocast to bfloat16, see :meth:`stream`.
        typical_size: height and width, in pixels, at which the trunk is measured by default.

    Raises:
        UserError: an option of another kind.
    """

    residual_dtype = torch.bfloat16
    typical_size = (512, 512)

    def __init__(
        self,
        frozen_eval: bool = True,
        activation_checkpointing: str | None = None,
        attn_backend: str = "auto",
    ):
        super().__init__()
        need_choice("activation_checkpointing", activation_checkpointing, ACTIVATION_CHECKPOINTING)
        self.frozen_eval = frozen_eval
        self.activation_checkpointing = activation_checkpointing
        self.attn_backend = attn_backend

    @classmethod
    def shortened(cls, options: Mapping[str, Any], depth: int) -> dict[str, Any]:
        """Constructor options that give the trunk of `options` `depth` blocks and leave all else as it is.

        Raises:
            UserError: no such depth; the message says which depths there are.
        """
        raise NotImplementedError(f"{cls.__name__} has one depth")

    def attach(self, stem: Stem, tuner: Tuner, widths: list[int]) -> None:
        """Plug in `stem` and `tuner`, set up the blocks, and freeze the base.

        Args:
            widths: channel width of every block, in order, up to the last that an output depends on.

        Raises:
            UserError: not a stem or not a tuner, one that is part of a model already, a stem without the
                images that the tuner needs, or an `attn_backend` that the blocks do not have.
        """
        for plugin, given, kind, known in (("stem", stem, Stem, STEMS), ("tuner", tuner, Tuner, TUNERS)):
            if not isinstance(given, kind):
                raise UserError(
                    f"{plugin}={given!r} is not a {plugin}: there are {', '.join(known)}, with their options "
                    f"as {plugin}.<option>=<value>"
                )
            refuse_attached(given)
        ignored = [image for image in tuner.needs if image not in stem.uses]
        if ignored:
            raise UserError(
                f"tuner={type(tuner).__name__} works on visible and infrared, but stem={type(stem).__name__} "
                f"ignores {ignored[0]}: give stem=PromptStem, or another tuner, such as Mona"
            )
        if "tuner" in self._modules:
            self.tuner.remove_hooks()
        stem.attach(self.patch_embed)
        tuner.attach(widths)
        self.stem, self.tuner = stem, tuner
        for block in self.blocks:
            block.activation_checkpointing = self.activation_checkpointing
        self.set_attn_backend(self.attn_backend)
        tuner.register_hooks(self)
        self.freeze()

    def set_attn_backend(self, backend: str) -> None:
        """Change how all blocks compute their attention; see `attn_backend` above."""
        for block in self.blocks:
            need_choice("attn_backend", backend, block.attn_backends)
            block.set_attn_backend(backend)
        self.attn_backend = backend

    def freeze(self) -> None:
        """Freeze everything but the plugins and the parameters that the tuner selects, as far as in use."""
        for parameter in self.base_parameters():
            parameter.requires_grad_(False)
        unused = {id(p) for module in self.unused() for p in module.parameters()}
        for parameter in self.tuner.select(self):
            parameter.requires_grad_(id(parameter) not in unused)
        self.train(self.training)

    def unused(self) -> Iterator[nn.Module]:
        """Parts of the base that no output depends on. They hold weights of the file and never train.

        DDP would wait for their gradients in vain.
        """
        yield from list(self.blocks)[self.tuner.depth :]

    def named_base_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names (relative to the trunk) and parameters of the base."""
        return ((n, p) for n, p in self.named_parameters() if n.split(".")[0] not in PLUGINS)

    def base_parameters(self) -> Iterator[nn.Parameter]:
        """The base's parameters."""
        return (p for _, p in self.named_base_parameters())

    def base_modules(self) -> Iterator[nn.Module]:
        """The base's modules, at any depth."""
        return (m for name, child in self.named_children() if name not in PLUGINS for m in child.modules())

    @contextlib.contextmanager
    def disable_adapters(self) -> Iterator[None]:
        """Inside, the trunk computes its frozen base exactly; afterwards, whatever happens, as before.

        The tuner has no effect, and a stem that has parameters of its own is replaced by the visible image's
        embedding alone. Parameters, their names and the optimizer's view of them stay as they are.

        Raises:
            UserError: the tuner trains the base itself, or is merged into it.
        """
        tuner = self.tuner
        if next(iter(tuner.select(self)), None) is not None:
            raise UserError(
                f"{type(tuner).__name__} trains the trunk's own weights, so the base is no longer in it: to "
                "compare, load the base's file into a model with model.backbone.net.tuner=Frozen"
            )
        before = tuner.enabled
        tuner.enable(False)
        try:
            yield
        finally:
            tuner.enable(before)

    def merge_adapters(self) -> None:
        """Write the tuner's part into the base: the same outputs, faster, from a trunk that cannot train.

        The state dict then holds the merged base. Stem, neck and heads stay as they are.

        Raises:
            UserError: the tuner's part cannot be merged (only LoRA's can), it holds infinite or NaN values,
                or the model is in training mode.
        """
        self.tuner.merge(self)

    def unmerge_adapters(self) -> None:
        """Undo :meth:`merge_adapters`, bit by bit.

        Where a file held the merged base already, as in ``load_adapter(..., merged=True)``: up to rounding.
        """
        self.tuner.unmerge(self)

    def train(self, mode: bool = True) -> Trunk:
        """As usual, but frozen parts stay in eval mode where `frozen_eval` says so."""
        if mode:
            self.tuner.check_trainable()  # before half of the trunk has changed
        super().train(mode)
        if mode and self.frozen_eval:
            for name, child in self.named_children():
                if name not in PLUGINS:
                    set_frozen_eval(child)
        return self

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, 3 or 6, H, W) -> the first map (B, h, w, C) and the prompt p0, None where there is none."""
        learned = next(self.stem.parameters(), None) is not None
        stem = VisibleOnly() if learned and not self.tuner.enabled else self.stem
        return stem(*self.split(x), self.patch_embed)

    def stream(self, x: Tensor) -> Tensor:
        """The input of a row of blocks, in the type that their residual stream keeps.

        Under autocast to bfloat16 that is `residual_dtype`, and float32 under autocast to float16, whose
        range the sums of a large trunk exceed. Otherwise `x` stays as it is.
        """
        kind = x.device.type
        if not is_autocast_on(kind):
            return x
        half = torch.get_autocast_dtype(kind) == torch.bfloat16
        return x.to(self.residual_dtype if half else torch.float32)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, 3 or 6, H, W) -> visible and infrared (None for three channels), (B, 3, H, W) each."""
        if x.shape[1] not in (3, 6):
            raise UserError(
                f"the trunk takes 3 (visible) or 6 (visible, infrared) channels, not {x.shape[1]}: "
                "check the lengths of model.pixel_mean and model.pixel_std"
            )
        return x[:, :3], x[:, 3:] if x.shape[1] == 6 else None

    def begin(self, x: Tensor) -> PassAdapters:
        """What the tuner adds to the blocks in the forward pass whose first map is `x`, (B, h, w, C).

        Nothing where it adds nothing, or is disabled.
        """
        if self.tuner.enabled and self.tuner.blocks is not None:
            # A compiled block has all of its sites in its own graph.
            compiled = any(block._compiled_call_impl is not None for block in self.blocks)
            return PassAdapters(self.tuner.blocks) if compiled else self.tuner.begin(x)
        return PassAdapters([None] * len(self.blocks))

    def layer_id(self, name: str) -> int:
        """Depth of a base parameter for layer-wise decay: 0 the embeddings, i+1 block i, depth+1 the rest."""
        parts = name.split(".")
        if parts[0] == "blocks":
            return int(parts[1]) + 1
        return 0 if parts[0] in EMBEDDINGS else len(self.blocks) + 1


class TrunkPlace(NamedTuple):
    """A trunk and its name in the model that holds it, such as "backbone.net"; "" where it is the model."""

    name: str
    trunk: Trunk

    @property
    def prefix(self) -> str:
        """What the names of the trunk's tensors start with in the model's state dict."""
        return f"{self.name}." if self.name else ""


def find_trunk(model: nn.Module) -> TrunkPlace:
    """Search `model` (possibly wrapped in DDP) for its trunk.

    Call it once where a model is built or comes in, and hand the result on.

    Raises:
        UserError: there is none, or more than one.
    """
    model = getattr(model, "module", model)
    places = [TrunkPlace(name, module) for name, module in model.named_modules() if isinstance(module, Trunk)]
    if len(places) != 1:
        raise UserError(
            f"expected one ivtuning trunk in the model, found {len(places)}: its place is model.backbone.net"
        )
    return places[0]
