"""A timm model with a frozen base and a tuner."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from ..errors import UserError
from ..tuning import TUNERS, Tuner
from ..tuning.base import refuse_attached, set_frozen_eval
from ..tuning.stems import STEMS, PromptStem, Stem, VisibleOnly
from ..utils.tensors import digest_of
from .blocks import Opened, Pass, close_block, open_blocks, stages_of
from .files import read_adapter, write_adapter


class TunedModel(nn.Module):
    """A timm model with a tuner, and with a stem where it takes pairs; :func:`attach` makes it.

    Attributes that it lacks are those of `model`, such as ``num_features``.

    Attributes:
        model: the timm model, opened in place.
        tuner, stem: what was added.
    """

    def __init__(self, model: nn.Module, tuner: Tuner, stem: Stem):
        super().__init__()
        self.model, self.tuner, self.stem = model, tuner, stem
        self._shared = Pass(tuner, getattr(model, "num_prefix_tokens", 0))
        self._trained_before = [(p, p.requires_grad) for p in model.parameters()]
        open_blocks(model, self._shared)
        self._handle: RemovableHandle | None = None
        try:
            stem.attach(model.patch_embed)
            _return_maps(stem)
            stem.base_loaded(model.patch_embed)
            tuner.register_hooks(self)
            self._handle = model.patch_embed.register_forward_hook(self._enter)
            head, selected = {id(p) for p in self._head().parameters()}, list(tuner.select(self))
        except BaseException:
            self._close()
            raise
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in head)
        for parameter in selected:
            parameter.requires_grad_(True)
        reference = model.patch_embed.proj.weight
        tuner.to(reference.device, reference.dtype)
        stem.to(reference.device, reference.dtype)
        self.train(model.training)

    # What a tuner asks of a trunk.

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks, in the order they run."""
        return [block for stage in stages_of(self.model) for block in stage]

    @property
    def patch_embed(self) -> nn.Module:
        """The model's patch embedding."""
        return self.model.patch_embed

    def base_parameters(self) -> Iterator[nn.Parameter]:
        """The pretrained parameters: those of the model but of its classifier."""
        head = {id(p) for p in self._head().parameters()}
        return (p for p in self.model.parameters() if id(p) not in head)

    def base_modules(self) -> Iterator[nn.Module]:
        """The model's modules, but for its classifier's."""
        head = set(self._head().modules())
        return (m for m in self.model.modules() if m not in head)

    def _head(self) -> nn.Module:
        head = self.model.get_classifier()
        if not isinstance(head, nn.Module):
            raise UserError(
                f"{type(self.model).__name__} has {type(head).__name__} of classifiers: give a model with one"
            )
        return head

    # Running.

    def forward(self, visible: Tensor, infrared: Tensor | None = None) -> Tensor:
        """The model's output for images (B, 3, H, W), normalized as the model wants them.

        Args:
            infrared: of the same size, (B, 1 or 3, H, W); only with a stem that uses it.

        Raises:
            UserError: the two do not go together, or the stem needs both.
        """
        return self._run(self.model, visible, infrared)

    def forward_features(self, visible: Tensor, infrared: Tensor | None = None) -> Tensor:
        """timm's ``forward_features``; see :meth:`forward`."""
        return self._run(self.model.forward_features, visible, infrared)

    def forward_intermediates(self, visible: Tensor, infrared: Tensor | None = None, **options: Any) -> Any:
        """timm's ``forward_intermediates``, with its options; see :meth:`forward`."""
        return self._run(self.model.forward_intermediates, visible, infrared, **options)

    def _run(self, function: Any, visible: Tensor, infrared: Tensor | None, **options: Any) -> Any:
        name = type(self.stem).__name__
        if infrared is None and "infrared" in self._active_stem().uses:
            raise UserError(f"stem={name} needs two images: call the model as tuned(visible, infrared)")
        if infrared is not None:
            if "infrared" not in self.stem.uses:
                raise UserError(
                    f"stem={name} ignores infrared: give one image, or attach(..., stem=GatedStem())"
                )
            if infrared.shape[1] == 1:
                infrared = infrared.expand(-1, 3, -1, -1)
            if infrared.shape != visible.shape:
                raise UserError(
                    f"visible is {tuple(visible.shape)} but infrared {tuple(infrared.shape)}: register the "
                    "pair to one size"
                )
        if self.training and torch.is_grad_enabled():
            self._refuse_checkpointing()
        # The blocks do it in timm's place, since they know what belongs to this pass.
        parts = self._checkpointing()
        self._shared.infrared, self._shared.checkpointing = infrared, bool(parts)
        for part in parts:
            part.grad_checkpointing = False
        try:
            return function(visible, **options)
        finally:
            self._shared.end()
            for part in parts:
                part.grad_checkpointing = True

    def _active_stem(self) -> Stem:
        """The stem; inside :meth:`disable`, the visible image alone in place of one that has parameters."""
        learned = next(self.stem.parameters(), None) is not None
        return VisibleOnly() if learned and not self.tuner.enabled else self.stem

    def _enter(self, embed: nn.Module, args: tuple[Tensor], out: Tensor) -> Tensor:
        """Forward hook of the patch embedding: note the map's size, and let the stem make the first map."""
        shared, visible = self._shared, args[0]
        flat = out.dim() == 3
        shared.size = tuple(embed.dynamic_feat_size(visible.shape[-2:]) if flat else out.shape[1:3])

        def to_map(x: Tensor) -> Tensor:
            return x.unflatten(1, shared.size) if flat else x

        def embed_map(image: Tensor) -> Tensor:
            return to_map(out if image is visible else embed.forward(image))

        x, shared.prompt = self._active_stem()(visible, shared.infrared, embed_map)
        if self.tuner.enabled and self.tuner.blocks is not None:
            shared.added = self.tuner.begin(x)
        return x.flatten(1, 2) if flat else x

    def train(self, mode: bool = True) -> TunedModel:
        """As usual, but frozen parts stay in eval mode: without drop-path and dropout."""
        if mode:  # checked before half of the model has changed
            self._refuse_checkpointing()
            self.tuner.check_trainable()
        super().train(mode)
        if mode:
            set_frozen_eval(self.model)
            for name, child in self.model.named_children():  # such as the dropout of position embeddings
                if name != "head_drop" and next(child.parameters(), None) is None:
                    child.eval()
        return self

    def _refuse_checkpointing(self) -> None:
        if self._checkpointing() and any(isinstance(m, _BatchNorm) for m in self.tuner.modules()):
            raise UserError(
                f"{type(self.tuner).__name__} does not go with timm's gradient checkpointing, which runs "
                "its batch norms twice: give it norm='GN', or call set_grad_checkpointing(False)"
            )

    def _checkpointing(self) -> list[nn.Module]:
        """The parts in which timm's gradient checkpointing is on: the model, or stages of a Swin."""
        parts = self.model, *getattr(self.model, "layers", ())
        return [part for part in parts if getattr(part, "grad_checkpointing", False)]

    # What trains.

    def trained_parameters(self) -> list[nn.Parameter]:
        """What an optimizer should get: added parts, the classifier, and what the tuner selects."""
        return [p for p in self.parameters() if p.requires_grad]

    def count(self) -> dict[str, int]:
        """Numbers of parameters: "added", "selected" of the base, "head", and "base" in all."""
        head = sum(p.numel() for p in self._head().parameters())
        base = list(self.base_parameters())
        return {
            "added": sum(p.numel() for plugin in (self.tuner, self.stem) for p in plugin.parameters()),
            "selected": sum(p.numel() for p in base if p.requires_grad),
            "head": head,
            "base": sum(p.numel() for p in base),
        }

    @contextlib.contextmanager
    def disable(self) -> Iterator[None]:
        """Inside, the model computes its frozen base on the visible image; its classifier stays.

        Raises:
            UserError: the tuner trains the base itself, or is merged into it.
        """
        if next(iter(self.tuner.select(self)), None) is not None:
            raise UserError(
                f"{type(self.tuner).__name__} trains the model's own weights: to compare, create it anew"
            )
        before = self.tuner.enabled
        self.tuner.enable(False)
        try:
            yield
        finally:
            self.tuner.enable(before)

    def merge(self) -> None:
        """Write the tuner's part into the model's weights; only LoRA's can be.

        Raises:
            UserError: it cannot be merged, holds infinite or NaN values, or the model is in training mode.
        """
        self.tuner.merge(self)

    def unmerge(self) -> None:
        """Undo :meth:`merge`, bit by bit."""
        self.tuner.unmerge(self)

    def unload(self) -> nn.Module:
        """Give back the timm model without what was added: its base, or what :meth:`merge` made of it.

        The parameters that trained before :func:`attach` train again, and no frozen part stays in eval mode
        where the model is in training mode. A second call changes nothing.
        """
        if self._close():
            self.model.train(self.training)
        return self.model

    def _close(self) -> bool:
        """Undo what was changed in the model; False where that was done before."""
        # A model that was attached again since has blocks of its new owner.
        opened = [b for b in self.blocks if isinstance(b, Opened) and b.shared is self._shared]
        if not opened:
            return False
        if self._handle is not None:
            self._handle.remove()
        self.tuner.remove_hooks()
        for block in opened:
            close_block(block)
        for parameter, trains in self._trained_before:
            parameter.requires_grad_(trains)
        return True

    def trained_state(self) -> dict[str, Tensor]:
        """The tensors of an adapter file by their names here: all that was added, and all that trains.

        Raises:
            UserError: the tuner is merged into the base.
        """
        next(iter(self.tuner.select(self)), None)  # refuses
        state = self.state_dict(keep_vars=True)
        added = tuple(f"{name}." for name in ("tuner", "stem"))
        return {n: t for n, t in state.items() if n.startswith(added) or getattr(t, "requires_grad", False)}

    def save(self, path: str | os.PathLike) -> None:
        """Write :meth:`trained_state` to a safetensors file, whole or not at all.

        Raises:
            UserError: the name does not end in .safetensors, the place refuses files, or the tuner is merged
                into the base.
        """
        write_adapter(path, self.trained_state(), self._facts())

    def load(self, path: str | os.PathLike) -> None:
        """Load a file of :meth:`save` into a model that was made and tuned in the same way.

        Args:
            path: of the file, or its name: hf://OWNER/REPO/FILE[@REVISION] or https://...

        Raises:
            UserError: not such a file, one that cannot be fetched, another base, stem or tuner, other shapes,
                or a tuner that is merged into the base; the model is then as it was.
        """
        read_adapter(path, self.trained_state(), self._facts())

    def _facts(self) -> dict[str, Any]:
        """What a file and the model it is loaded into must have in common."""
        trained = {id(t) for t in self.trained_state().values()}
        state = self.model.state_dict(keep_vars=True)
        return {
            "tuner": type(self.tuner).__name__,
            "revision": self.tuner.revision,
            "options": self.tuner.meaning() | self.stem.meaning(),
            "stem": type(self.stem).__name__,
            "base": digest_of({n: t.detach() for n, t in state.items() if id(t) not in trained}),
        }

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model":
                raise
            return getattr(self.model, name)


def attach(model: nn.Module, tuner: Tuner, stem: Stem | None = None) -> TunedModel:
    """Freeze a timm ViT, EVA or Swin model and add `tuner` to it.

    The classifier (``model.get_classifier()``) trains; load pretrained weights before.

    Args:
        model: from ``timm.create_model``; it is changed in place, names of its tensors stay.
        tuner: a method of :mod:`ivtuning.tuning`, such as ``LoRA(rank=8)``.
        stem: what makes one map of a pair, such as ``GatedStem()``. By default ``PromptStem()`` for a tuner
            that needs pairs, else the model takes one image.

    Raises:
        UserError: a model of another kind, one that is attached already or in half precision, not a tuner or
            a stem, one that is part of a model already, or a stem that ignores an image that the tuner needs.
    """
    for kind, given, base, known in (("tuner", tuner, Tuner, TUNERS), ("stem", stem, Stem, STEMS)):
        if given is not None and not isinstance(given, base) or (kind == "tuner" and given is None):
            raise UserError(
                f"{kind}={given!r} is not a {kind}: give one of {', '.join(known)}, as {kind}=...()"
            )
        if given is not None:
            refuse_attached(given)
    if stem is None:
        stem = PromptStem() if tuner.needs else VisibleOnly()
    if ignored := [image for image in tuner.needs if image not in stem.uses]:
        raise UserError(
            f"{type(tuner).__name__} works on pairs, but stem={type(stem).__name__} ignores {ignored[0]}: "
            "give stem=PromptStem(), or another tuner"
        )
    return TunedModel(model, tuner, stem)


def _return_maps(stem: Stem) -> None:
    """Make the stem's copy of a patch embedding return maps, (B, h, w, C)."""
    embed = getattr(stem, "embed", None)
    if embed is not None:
        embed.flatten, embed.output_fmt = False, type(embed.output_fmt)("NHWC")
