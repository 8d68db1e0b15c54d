"""Graph convolutions whose nodes are pixels: on the grid, and among nearest neighbours.

Papers: Semi-Supervised Classification with Graph Convolutional Networks
(https://arxiv.org/abs/1609.02907), Vision GNN (https://arxiv.org/abs/2206.00272).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_space.layers import at_least_float32, full_precision, pool
from search_space.registry import register_operator


@register_operator("graph")
class GridGraphConv2d(nn.Module):
    """Y = D^(-1/2) (A + I) D^(-1/2) X T on the grid in which a pixel knows its 8 neighbours.

    Paper: https://arxiv.org/abs/1609.02907, equation 2. Summing over neighbours is a 3x3 box, so
    no matrix of pixels by pixels is made. The map is pooled to the stride first. Parameters
    C_in·C_out, MACs the same times H'·W' (the box only adds).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.theta = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.theta(pool(x, self.stride))
        # average pooling over 3x3 is the box over 9, here for the degrees and below for the sum
        scale = F.avg_pool2d(x.new_ones(1, 1, *x.shape[2:]), 3, 1, 1).rsqrt()
        return F.avg_pool2d(x * scale, 3, 1, 1) * scale


@register_operator("graph_knn")
class NearestGraphConv2d(nn.Module):
    """Y[p] = T [X[p], max over q in N(p) of X[q] - X[p]], N(p) the pixels most like p.

    Paper: https://arxiv.org/abs/2206.00272, max-relative convolution. Likeness is the distance of
    normalised features, in float32 and without gradient; a pixel is its own neighbour, too. The
    map is pooled to the stride first. Parameters 2·C_in·C_out, MACs with L = H'·W' pixels
    2·C_in·C_out·L + C_in·L².

    Args:
        neighbours: Size of N(p), at most all pixels.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, neighbours: int = 9
    ) -> None:
        super().__init__()
        self.stride, self.neighbours = stride, neighbours
        self.theta = nn.Conv2d(2 * in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = pool(x, self.stride)
        nodes = x.flatten(2)  # (B, C, L)
        nearest = self._nearest(nodes)  # (B, L, k)
        index = nearest.flatten(1)[:, None].expand(-1, nodes.shape[1], -1)
        neighbours = nodes.gather(2, index).unflatten(2, nearest.shape[1:])
        relative = (neighbours.amax(3) - nodes).unflatten(2, x.shape[2:])
        return self.theta(torch.cat([x, relative], 1))

    @torch.no_grad()
    def _nearest(self, nodes: Tensor) -> Tensor:
        with full_precision(nodes):
            unit = F.normalize(at_least_float32(nodes), dim=1)
            likeness = unit.transpose(1, 2) @ unit  # distance² = 2 - 2 likeness
            return likeness.topk(min(self.neighbours, nodes.shape[2]), sorted=False).indices
