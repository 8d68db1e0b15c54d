"""Small parts that several operators and blocks share."""

from __future__ import annotations

import contextlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm that also trains on a single value per channel.

    PyTorch refuses a (1, C, 1, 1) input in training, which global pooling at batch size 1 makes.
    There is no variance to learn from then: the running statistics are used and left alone.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(x)


def largest_divisor(limit: int, *channels: int) -> int:
    """Return the largest common divisor of `channels` that is at most `limit`."""
    common = math.gcd(*channels)
    return next(d for d in range(min(common, limit), 0, -1) if common % d == 0)


def same_padding(kernel_size: int, dilation: int = 1) -> int:
    """Return the padding with which a kernel of odd size maps H pixels to ceil(H/stride)."""
    return dilation * (kernel_size // 2)


def pool(x: Tensor, stride: int) -> Tensor:
    """Average to ceil(H/stride) pixels, exact at the border of odd sizes."""
    if stride == 1:
        return x
    return F.avg_pool2d(x, stride, stride, ceil_mode=True, count_include_pad=False)


def conv_norm(
    in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, act: bool = True
) -> nn.Sequential:
    """Build a convolution, a batch norm and, if asked for, a ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False),
        BatchNorm2d(out_channels),
    ]
    if act:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def full_precision(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Suspend autocast on the tensor's device: for coordinates, distances, composed kernels."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind):  # the meta device has none
        return contextlib.nullcontext()
    return torch.autocast(kind, enabled=False)


def at_least_float32(x: Tensor) -> Tensor:
    """Return the tensor itself, or in float32 if its type is a half one."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def fold_norm(kernel: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return kernel and bias of the convolution that equals one and its batch norm in eval mode.

    W' = W gamma / sqrt(var + eps), b' = beta - mean gamma / sqrt(var + eps).
    """
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    scale = norm.weight / torch.sqrt(variance + norm.eps)
    return kernel * scale[:, None, None, None], norm.bias - mean * scale


@torch.no_grad()
def fused_conv(like: nn.Conv2d, kernel: Tensor, bias: Tensor) -> nn.Conv2d:
    """Build a convolution with the geometry of `like`, the given kernel and a bias."""
    conv = nn.Conv2d(
        like.in_channels,
        like.out_channels,
        like.kernel_size,  # type: ignore[arg-type]
        like.stride,  # type: ignore[arg-type]
        like.padding,  # type: ignore[arg-type]
        like.dilation,  # type: ignore[arg-type]
        like.groups,
        device=kernel.device,
        dtype=kernel.dtype,
    )
    conv.weight.copy_(kernel)
    assert conv.bias is not None
    conv.bias.copy_(bias)
    return conv


@torch.no_grad()
def initialize(module: nn.Module) -> None:
    """Initialise plain convolutions by He (fan-out, ReLU), as for ResNet and RedNet.

    An operator that must start otherwise says how in a method `init_weights`, called afterwards.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    for part in module.modules():
        start = getattr(part, "init_weights", None)
        if start is not None:
            start()
