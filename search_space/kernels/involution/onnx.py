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
from torch import Tensor

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


def forward(
    input: Tensor, weight: Tensor, kernel_size: int, stride: int = 1, dilation: int = 1
) -> Tensor:
    """Compute `involution`; the batch may be symbolic."""
    height, width = weight.shape[-2:]
    groups = weight.shape[1] // kernel_size**2
    padding = dilation * (kernel_size // 2)

    # Tiles of about 2K + 2 output columns: wider ones multiply more zeros, narrower ones copy more.
    tiles = -(-width // (2 * kernel_size + 2))
    tile = -(-width // tiles)
    reach = dilation * (kernel_size - 1) + 1  # input columns one output pixel reads from
    columns = tile * stride + reach  # more by `stride` than a tile of them, see `_bands`
    bands = _bands(weight, groups, kernel_size, stride, dilation, tiles, tile, columns)

    right = max(tiles * tile * stride + reach - padding - input.shape[3], padding)
    padded = F.pad(input, (padding, right, padding, padding)).unflatten(1, (groups, -1))
    starts = range(0, tiles * tile * stride, tile * stride)
    windows = torch.stack([padded[..., start : start + columns] for start in starts], dim=-2)
    windows = windows.permute(0, 1, 3, 4, 5, 2)  # (B, G, rows, tiles, columns, C/G)
    last = stride * (height - 1) + 1
    taps = range(0, kernel_size * dilation, dilation)
    rows = [windows[:, :, i : i + last : stride] for i in taps]
    rows[-1] = rows[-1][..., : columns - stride, :]
    patches = torch.cat(rows, dim=4)

    output = bands @ patches  # (B, G, height, tiles, tile, C/G)
    output = output.flatten(3, 4)[:, :, :, :width]
    return output.permute(0, 1, 4, 2, 3).flatten(1, 2)


def _bands(
    weight: Tensor, groups: int, kernel_size: int, stride: int, dilation: int,
    tiles: int, tile: int, columns: int,
) -> Tensor:  # fmt: skip
    """Turn (B, G*K*K, H', W') weights into bands (B, G, H', tiles, tile, K * columns - stride).

    Pixel p of a tile has its taps at the columns from ``stride * p``. Rows that are ``stride``
    longer than the matrix, written one after the other and cut again at the matrix's length, move
    right by ``stride`` from row to row: padding and two reshapes make the band.
    """
    beyond = tiles * tile - weight.shape[-1]
    kernels = F.pad(weight, (0, beyond)) if beyond else weight
    kernels = kernels.unflatten(1, (groups, kernel_size, kernel_size)).permute(0, 1, 4, 5, 2, 3)
    kernels = kernels.unflatten(3, (tiles, tile))  # (B, G, H', tiles, tile, K, K)
    if dilation > 1:  # zeros between the taps
        kernels = F.pad(kernels.unsqueeze(-1), (0, dilation - 1)).flatten(-2)
    rows = F.pad(kernels, (0, columns - kernels.shape[-1])).flatten(-3)
    length = kernel_size * columns - stride
    return rows[..., : tile * length].unflatten(-1, (tile, length))
