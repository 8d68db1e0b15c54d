"""Diverse branch block: one convolution trained as four different ones.

Paper: Diverse Branch Block: Building a Convolution as an Inception-like Unit
(https://arxiv.org/abs/2103.13425).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search_space.layers import BatchNorm2d, fold_norm, fused_conv, largest_divisor, same_padding
from search_space.options import KernelSize
from search_space.registry import register_operator


@register_operator("diverse_branch")
class DiverseBranch(nn.Module):
    """Y = BN(W * X) + BN(P X) + BN(W' * BN(P' X)) + BN(mean of BN(P" X)); deployed, one K×K kernel.

    The 1x1 convolutions P' and P" pad the map themselves, so their batch norm sees the border as
    well and the block fuses exactly, there too. P' starts as the identity. With g groups and n
    channels inside the third branch (C_in, or 2·C_in when depthwise), in training: parameters
    [K²·C_out·(C_in + n) + 2·C_in·C_out + C_in·n]/g + 10·C_out + 2·n, MACs
    [K²·C_out·(C_in + n) + C_in·C_out]/g·H'·W' + C_in·(n + C_out)/g·(H + K - 1)·(W + K - 1).
    Deployed (`reparameterize`): K²·C_in·C_out/g + C_out and K²·(C_in·C_out/g)·H'·W'.

    Args:
        kernel_size: Odd side length K.
        groups: Lowered to the largest common divisor of the channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        kernel_size: KernelSize = 3,
        groups: int = 1,
    ) -> None:
        super().__init__()
        groups = largest_divisor(groups, in_channels, out_channels)
        inner = 2 * in_channels if groups == in_channels > 1 else in_channels
        pad = same_padding(kernel_size)

        def conv(ins: int, outs: int, size: int, step: int = 1, padding: int = 0) -> nn.Conv2d:
            return nn.Conv2d(ins, outs, size, step, padding, groups=groups, bias=False)

        norm = BatchNorm2d
        plain = conv(in_channels, out_channels, kernel_size, stride, pad)
        point = conv(in_channels, out_channels, 1, stride)
        entry = conv(in_channels, inner, 1, padding=pad)
        second = conv(inner, out_channels, kernel_size, stride)
        averaged = conv(in_channels, out_channels, 1, padding=pad)
        mean = nn.AvgPool2d(kernel_size, stride)
        self.branches = nn.ModuleList(
            [
                nn.Sequential(plain, norm(out_channels)),
                nn.Sequential(point, norm(out_channels)),
                nn.Sequential(entry, norm(inner), second, norm(out_channels)),
                nn.Sequential(averaged, norm(out_channels), mean, norm(out_channels)),
            ]
        )
        self.init_weights()

    def init_weights(self) -> None:
        if len(self.branches) > 1:
            entry = self.branches[2][0]  # type: ignore[index]
            nn.init.dirac_(entry.weight, entry.groups)

    def forward(self, x: Tensor) -> Tensor:
        out = self.branches[0](x)
        for branch in self.branches[1:]:
            out = out + branch(x)
        return out

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Add all branches up in one K×K kernel and bias, equal in eval mode."""
        if len(self.branches) == 1:
            return
        plain, point, serial, average = ([*branch] for branch in self.branches)  # type: ignore[misc]
        conv: nn.Conv2d = plain[0]
        k, groups = conv.kernel_size[0], conv.groups

        kernel, bias = fold_norm(conv.weight, plain[1])
        centre, centre_bias = fold_norm(point[0].weight, point[1])
        kernel[:, :, k // 2, k // 2] += centre[:, :, 0, 0]

        # averaging is a convolution as well: 1/K² at every tap of a channel's own kernel
        own = torch.eye(conv.out_channels // groups, device=bias.device, dtype=bias.dtype)
        mean = own.repeat(groups, 1)[:, :, None, None].expand(-1, -1, k, k) / k**2
        for first, norm, second, last_norm in (
            (serial[0].weight, serial[1], serial[2].weight, serial[3]),
            (average[0].weight, average[1], mean, average[3]),
        ):
            chained = _chain(*fold_norm(first, norm), *fold_norm(second, last_norm), groups)
            kernel, bias = kernel + chained[0], bias + chained[1]
        self.branches = nn.ModuleList([fused_conv(conv, kernel, bias + centre_bias)])


def _chain(
    point: Tensor, point_bias: Tensor, kernel: Tensor, bias: Tensor, groups: int
) -> tuple[Tensor, Tensor]:
    """Return kernel and bias of a padded 1x1 convolution followed by an unpadded K×K one."""
    point = point[:, :, 0, 0].unflatten(0, (groups, -1))  # (g, inner/g, in/g)
    kernel = kernel.unflatten(0, (groups, -1))  # (g, out/g, inner/g, K, K)
    inner_bias = point_bias.unflatten(0, (groups, -1))
    chained = torch.einsum("gomhw,gmi->goihw", kernel, point).flatten(0, 1)
    return chained, bias + torch.einsum("gomhw,gm->go", kernel, inner_bias).flatten()
