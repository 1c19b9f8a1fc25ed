"""Normalization layers by name, on every device and in any number of processes. They need torch alone."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError, nearest
from .precision import at_least_float32

NORMS = ("BN", "SyncBN", "GN")


def make_norm(kind: str, channels: int, groups: int | None = None) -> nn.Module:
    """Build the normalization `kind` for maps of shape (B, `channels`, H, W).

    Args:
        kind: "BN" (batch norm of this process' images), "SyncBN" (of all processes' images) or "GN".
        groups: number of groups of "GN"; None: groups of about 8 channels.

    Raises:
        UserError: another kind, or channels that `groups` groups of at least 2 do not divide.
    """
    if kind == "BN":
        return BatchNorm(channels)
    if kind == "SyncBN":
        return SyncBatchNorm(channels)
    if kind != "GN":
        raise UserError(f"norm={kind!r}: give {', '.join(NORMS)}{nearest(str(kind), NORMS)}")
    if groups is None:
        groups = math.gcd(channels, max(1, channels // 8))
    elif channels % groups or channels == groups:  # groups of one channel fail on 1x1 maps
        sizes = f"{2 * groups}, {3 * groups}, ..."
        raise UserError(f"norm='GN' has {groups} groups: give {sizes} channels, not {channels}")
    return nn.GroupNorm(groups, channels)


class _OneValue:
    """Mixin for batch norms: where a channel has one value, the running statistics replace the batch's.

    This happens to a 1x1 map in a batch of one image, as in UPerNet's global pooling. One value has no
    variance, and torch refuses to train on it. The layer then works as in evaluation and records nothing.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.sees_this_process_alone() and x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


class BatchNorm(_OneValue, nn.BatchNorm2d):
    """Batch norm over the images of this process."""

    def sees_this_process_alone(self) -> bool:
        return True


class SyncBatchNorm(_OneValue, nn.SyncBatchNorm):
    """Batch norm over the images of all processes.

    torch's own class synchronizes on CUDA alone and refuses a CPU. There the statistics are summed here, in
    two steps and differentiably, which gives the same values as one process with all images: detectron2's
    NaiveSyncBatchNorm, which serves the same purpose, weighs all processes equally and forms the variance as
    a difference of large numbers.
    """

    def sees_this_process_alone(self) -> bool:
        return _world_size() == 1

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cpu and self.training and _world_size() > 1:
            return self._synchronized(x)
        if x.is_cpu and x.numel() > x.shape[1]:  # torch's class refuses a CPU, even in a group of one process
            return nn.BatchNorm2d.forward(self, x)
        return super().forward(x)

    def _synchronized(self, x: Tensor) -> Tensor:
        values, axes = at_least_float32(x), (0, 2, 3)
        count = values.new_tensor([x.numel() / x.shape[1]])
        *total, count = _AllReduce.apply(torch.cat([values.sum(axes), count])).split([x.shape[1], 1])
        mean = total[0] / count
        centered = values - mean[:, None, None]
        variance = _AllReduce.apply(centered.square().sum(axes)) / count
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked += 1
                rate = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
                unbiased = variance * (count / (count - 1).clamp(min=1))
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), rate)
        scale = (variance + self.eps).rsqrt() * self.weight
        return (centered * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class _AllReduce(torch.autograd.Function):
    """The sum over all processes. Its gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx, x):
        return _summed(x)

    @staticmethod
    def backward(ctx, grad):
        return _summed(grad)


def _summed(x: Tensor) -> Tensor:
    x = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x)
    return x


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
