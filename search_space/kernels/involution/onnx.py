"""Involution as one batched matrix product: the form exported to ONNX.

ONNX has no involution, and its runtime runs K*K shifts (or unfold) as K*K passes over memory. Here
the K*K weights of a pixel become a row of a banded matrix that multiplies the K image rows around
it, tile by tile of neighbouring pixels. The zeros of the band are multiplied too, but a matrix
product is what the runtime is fastest at, and the graph stays small. Measured against
shift-and-add and unfold in `benchmarks/involution.py`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_space.kernels import own_nodes

NODE = "Involution"


def node(
    input: Tensor, inputs: tuple[Tensor, ...], kernel_size: int, stride: int, dilation: int
) -> Tensor:
    """Return what an export for runtimes with our extension writes.

    Args:
        inputs: The weights; or features (B, F, H', W'), and the weight (F, G*K*K) and bias of the
            1x1 convolution that makes the weights of them.
    """
    geometry = {"kernel_size": kernel_size, "stride": stride, "dilation": dilation}
    shape = (*input.shape[:2], *inputs[0].shape[2:])
    return own_nodes.node(NODE, (input, *inputs), geometry, shape)


FEW = 16  # features; with more, `forward` of the weights is as fast or faster


def forward(
    input: Tensor, weight: Tensor, kernel_size: int, stride: int = 1, dilation: int = 1
) -> Tensor:
    """Compute `involution`; the batch may be symbolic."""
    height, width = weight.shape[-2:]
    groups = weight.shape[1] // kernel_size**2
    tiling = Tiling(width, kernel_size, stride, dilation)
    kernels = F.pad(weight, (0, tiling.beyond)) if tiling.beyond else weight
    kernels = kernels.unflatten(1, (groups, kernel_size, kernel_size)).permute(0, 1, 4, 5, 2, 3)
    kernels = kernels.unflatten(3, (tiling.tiles, tiling.tile))  # (B, G, H', tiles, tile, K, K)
    return _multiply(input, tiling.spread(kernels).flatten(-3), tiling, (height, width))


def forward_spanned(
    input: Tensor,
    features: Tensor,
    span: nn.Conv2d,
    kernel_size: int,
    stride: int = 1,
    dilation: int = 1,
) -> Tensor:
    """Compute `spanned_involution`: one product makes the weights with the zeros between them.

    The weights, many more than the features, are then neither transposed nor padded. A feature of
    ones stands for the bias.
    """
    height, width = features.shape[-2:]
    groups = span.out_channels // kernel_size**2
    tiling = Tiling(width, kernel_size, stride, dilation)
    assert span.bias is not None
    taps = torch.cat([span.weight.flatten(1), span.bias[:, None]], 1)
    taps = taps.unflatten(0, (groups, kernel_size, kernel_size)).permute(0, 3, 1, 2)
    taps = tiling.spread(taps).flatten(-2)  # (G, features, K * columns)
    pixels = torch.cat([features, torch.ones_like(features[:, :1])], 1).permute(0, 2, 3, 1)
    pixels = F.pad(pixels, (0, 0, 0, tiling.beyond)) if tiling.beyond else pixels
    pixels = pixels.unflatten(2, (tiling.tiles, tiling.tile))[:, None]
    rows = (pixels @ taps[None, :, None, None]).flatten(-2)
    return _multiply(input, rows, tiling, (height, width))


class Tiling:
    """Output columns in tiles of about 2K + 2: wider ones multiply more zeros, narrower copy more.

    Attributes:
        tiles, tile: How many there are, and of how many columns each.
        columns: Of the input that a tile reads, and `stride` more (`_multiply`).
        beyond: Columns of the last tile that are not in the output.
    """

    def __init__(self, width: int, kernel_size: int, stride: int, dilation: int) -> None:
        self.kernel_size, self.stride, self.dilation = kernel_size, stride, dilation
        self.tiles = -(-width // (2 * kernel_size + 2))
        self.tile = -(-width // self.tiles)
        self.reach = dilation * (kernel_size - 1) + 1  # columns one output pixel reads from
        self.columns = self.tile * stride + self.reach
        self.beyond = self.tiles * self.tile - width

    def spread(self, kernels: Tensor) -> Tensor:
        """Put zeros between the taps of (..., K, K) and behind them: (..., K, columns)."""
        if self.dilation > 1:
            kernels = F.pad(kernels.unsqueeze(-1), (0, self.dilation - 1)).flatten(-2)
        return F.pad(kernels, (0, self.columns - kernels.shape[-1]))


def _multiply(input: Tensor, rows: Tensor, tiling: Tiling, size: tuple[int, int]) -> Tensor:
    """Multiply the image by bands, and return (B, C, H', W').

    Pixel p of a tile has its taps at the columns from ``stride * p``. Rows that are ``stride``
    longer than the matrix, written one after the other and cut again at the matrix's length, move
    right by ``stride`` from row to row: padding and two reshapes make the band.

    Args:
        rows: (B, G, H', tiles, tile * K * columns), spread kernels.
        size: H' and W'.
    """
    kernel_size, stride, dilation = tiling.kernel_size, tiling.stride, tiling.dilation
    tiles, tile, columns = tiling.tiles, tiling.tile, tiling.columns
    length = kernel_size * columns - stride
    bands = rows[..., : tile * length].unflatten(-1, (tile, length))

    padding = dilation * (kernel_size // 2)
    right = max(tiles * tile * stride + tiling.reach - padding - input.shape[3], padding)
    padded = F.pad(input, (padding, right, padding, padding)).unflatten(1, (rows.shape[1], -1))
    starts = range(0, tiles * tile * stride, tile * stride)
    windows = torch.stack([padded[..., start : start + columns] for start in starts], dim=-2)
    windows = windows.permute(0, 1, 3, 4, 5, 2)  # (B, G, rows, tiles, columns, C/G)
    last = stride * (size[0] - 1) + 1
    taps = range(0, kernel_size * dilation, dilation)
    around = [windows[:, :, i : i + last : stride] for i in taps]
    around[-1] = around[-1][..., : columns - stride, :]
    patches = torch.cat(around, dim=4)

    output = bands @ patches  # (B, G, H', tiles, tile, C/G)
    output = output.flatten(3, 4)[:, :, :, : size[1]]
    return output.permute(0, 1, 4, 2, 3).flatten(1, 2)
