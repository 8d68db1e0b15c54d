"""The operators' equations written out a second time, without the operators' code."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


def conv(x: Tensor, kernel: Tensor, stride: int = 1, dilation: int = 1, groups: int = 1) -> Tensor:
    """Tap by tap, zero outside, ceil(H/stride) by ceil(W/stride)."""
    rows, columns = kernel.shape[2:]
    top, left = dilation * (rows // 2), dilation * (columns // 2)
    height, width = (math.ceil(side / stride) for side in x.shape[2:])
    padded = nn.functional.pad(x, (left, left + stride, top, top + stride))
    padded = padded.unflatten(1, (groups, -1))
    weights = kernel.unflatten(0, (groups, -1))
    out = 0
    for i in range(rows):
        for j in range(columns):
            tap = padded[..., i * dilation :: stride, j * dilation :: stride]
            tap = tap[..., :height, :width]
            out = out + torch.einsum("bgihw,goi->bgohw", tap, weights[..., i, j])
    return out.flatten(1, 2)


def norm(x: Tensor, layer: nn.BatchNorm2d) -> Tensor:
    def per_channel(values):
        return values.reshape(1, -1, 1, 1)

    scaled = (x - per_channel(layer.running_mean)) / per_channel(layer.running_var + 1e-5).sqrt()
    return scaled * per_channel(layer.weight) + per_channel(layer.bias)


def blocks(x: Tensor, size: int) -> Tensor:
    """Means over blocks of size x size pixels, of those that exist at the border."""
    rows = [
        torch.stack([x[..., i : i + size, j : j + size].mean((2, 3)) for j in starts], -1)
        for i in range(0, x.shape[2], size)
        for starts in [range(0, x.shape[3], size)]
    ]
    return torch.stack(rows, -2)


def stretched(x: Tensor, like: Tensor) -> Tensor:
    """Every pixel twice in both directions, cut to the size of another map."""
    height, width = like.shape[2:]
    rows, columns = torch.arange(height) // 2, torch.arange(width) // 2
    return x[:, :, rows][:, :, :, columns]


def mean(x: Tensor) -> Tensor:
    return x.sum((2, 3)) / (x.shape[2] * x.shape[3])


def relu(x: Tensor) -> Tensor:
    return x * (x > 0)


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def softmax(x: Tensor, dim: int) -> Tensor:
    return torch.exp(x) / torch.exp(x).sum(dim, keepdim=True)


def asymmetric(operator, x, stride):
    return sum(norm(conv(x, kernel.weight, stride), bn) for kernel, bn in operator.branches)


def mixture(operator, x, stride, weights):
    """A loop over the images, each with its own kernel."""
    experts = operator.experts
    width = experts.out_channels
    kernels = experts.weight.reshape(len(experts.weight), width, -1, *experts.kernel_size)
    mixed = torch.einsum("bn,noihw->boihw", weights, kernels)
    images = [conv(x[i : i + 1], mixed[i], stride) for i in range(len(x))]
    return torch.cat(images)


def condconv(operator, x, stride):
    router = operator.router
    return mixture(operator, x, stride, sigmoid(mean(x) @ router.weight.T + router.bias))


def dynamic(operator, x, stride):
    first, _, last = operator.router
    hidden = relu(mean(x) @ first.weight.T + first.bias)
    logits = hidden @ last.weight.T + last.bias
    return mixture(operator, x, stride, softmax(logits / 30, 1))


def deformable(operator, x, stride):
    """Bilinear samples, pixel by pixel."""
    learned = conv(x, operator.offset.weight, stride) + operator.offset.bias.reshape(1, -1, 1, 1)
    batch, _, height, width = learned.shape
    weights = operator.conv.weight.flatten(2)
    out = x.new_zeros(batch, weights.shape[0], height, width)
    for b in range(batch):
        for h in range(height):
            for w in range(width):
                for tap in range(9):
                    down, right = learned[b, 2 * tap : 2 * tap + 2, h, w].tolist()
                    row, column = stride * h + tap // 3 - 1 + down, stride * w + tap % 3 - 1 + right
                    value = bilinear(x[b], row, column)
                    mask = 2 * sigmoid(learned[b, 18 + tap, h, w])
                    out[b, :, h, w] += mask * (weights[:, :, tap] @ value)
    return out


def bilinear(image: Tensor, row: float, column: float) -> Tensor:
    total = torch.zeros_like(image[:, 0, 0])
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < image.shape[1] and 0 <= j < image.shape[2]:
                total += (1 - abs(row - i)) * (1 - abs(column - j)) * image[:, i, j]
    return total


def depthwise(operator, x, stride):
    spatial, bn, point = operator
    out = conv(x, spatial.weight, stride, groups=x.shape[1])
    return conv(norm(out, bn), point.weight)


def depthwise_separable(operator, x, stride):
    spatial, bn, _, point = operator
    out = conv(x, spatial.weight, stride, groups=x.shape[1])
    return conv(relu(norm(out, bn)), point.weight)


def diverse_branch(operator, x, stride):
    """The published form: batch norm first, then the border filled with its image of zero."""

    def entered(conv1, bn):
        maps = norm(conv(x, conv1.weight), bn)
        border = norm(torch.zeros_like(maps[:1, :, :1, :1]), bn)
        return nn.functional.pad(maps - border, (1, 1, 1, 1)) + border

    def inside(maps):  # a padded map convolved "same" has one row and column too many all around
        height, width = (math.ceil(side / stride) for side in x.shape[2:])
        return maps[:, :, 1::stride, 1::stride][:, :, :height, :width]

    plain, point, serial, average = operator.branches
    out = norm(conv(x, plain[0].weight, stride), plain[1])
    out = out + norm(conv(x, point[0].weight, stride), point[1])
    out = out + norm(inside(conv(entered(serial[0], serial[1]), serial[2].weight)), serial[3])
    maps = entered(average[0], average[1])
    box = torch.full((maps.shape[1], 1, 3, 3), 1 / 9, dtype=x.dtype)
    return out + norm(inside(conv(maps, box, groups=maps.shape[1])), average[3])


def do_conv(operator, x, stride):
    """The feature view: every window is transformed by D, then multiplied with W."""
    height, width = (math.ceil(side / stride) for side in x.shape[2:])
    windows = nn.functional.unfold(x, 3, padding=1, stride=stride).unflatten(1, (-1, 9))
    transform = torch.eye(9, dtype=x.dtype) + operator.over
    features = torch.einsum("bium,ius->bism", windows, transform)
    out = torch.einsum("bism,ois->bom", features, operator.conv.weight.flatten(2))
    return out.unflatten(2, (height, width))


def inverted_residual(operator, x, stride):
    out = x
    for part, step in ((operator.expand, 1), (operator.spatial, stride)):
        out = norm(conv(out, part[0].weight, step, groups=part[0].groups), part[1])
        out = out * (out > 0) * (out < 6) + 6.0 * (out >= 6)
    out = norm(conv(out, operator.reduce[0].weight), operator.reduce[1])
    return x + out if out.shape == x.shape else out


def ghost(operator, x, stride):
    primary, cheap = operator.primary_conv, operator.cheap_operation
    maps = norm(conv(x, primary[0].weight, stride), primary[1])
    derived = norm(conv(maps, cheap[0].weight, groups=maps.shape[1]), cheap[1])
    return torch.cat([maps, derived], 1)[:, : operator.out_chs]


def graph(operator, x, stride):
    """The matrix of pixels by pixels."""
    x = blocks(x, stride)
    height, width = x.shape[2:]
    pixels = [(i, j) for i in range(height) for j in range(width)]
    adjacency = torch.tensor(
        [[float(max(abs(i - k), abs(j - m)) <= 1) for k, m in pixels] for i, j in pixels]
    ).double()
    degrees = adjacency.sum(1)
    normalised = adjacency / torch.sqrt(degrees[:, None] * degrees[None])
    out = torch.einsum(
        "pq,biq,oi->bop", normalised, x.flatten(2), operator.theta.weight[:, :, 0, 0]
    )
    return out.unflatten(2, (height, width))


def graph_knn(operator, x, stride):
    x = blocks(x, stride)
    nodes = x.flatten(2)
    unit = nodes / nodes.square().sum(1, keepdim=True).sqrt()
    relative = torch.empty_like(nodes)
    for b in range(len(x)):
        for p in range(nodes.shape[2]):
            distances = (unit[b] - unit[b, :, p : p + 1]).square().sum(0)
            nearest = sorted(range(nodes.shape[2]), key=distances.tolist().__getitem__)[:9]
            relative[b, :, p] = (nodes[b][:, nearest] - nodes[b, :, p : p + 1]).amax(1)
    features = torch.cat([nodes, relative], 1).unflatten(2, x.shape[2:])
    return conv(features, operator.theta.weight)


def heterogeneous(operator, x, stride):
    """One dense kernel, masked."""
    point = operator.point.weight[:, :, 0, 0]
    out_channels, in_channels = point.shape
    parts = operator.parts
    kernel = torch.zeros(out_channels, in_channels, 9, dtype=x.dtype)
    for part in range(parts):
        outs = slice(part * out_channels // parts, (part + 1) * out_channels // parts)
        ins = slice(part * in_channels // parts, (part + 1) * in_channels // parts)
        kernel[outs, ins, :4] = operator.around[outs, :, :4]
        kernel[outs, ins, 5:] = operator.around[outs, :, 4:]
    kernel[:, :, 4] = point
    share = 9 / parts + 1 - 1 / parts
    assert kernel.count_nonzero() == share * out_channels * in_channels
    return conv(x, kernel.unflatten(2, (3, 3)), stride)


def inception(operator, x, stride):
    point, three, five, pooled = (
        operator.branches[k] for k in ("point", "three", "five", "pooled")
    )

    def reduced(branch):
        return conv(relu(norm(conv(x, branch[0].weight), branch[1])), branch[3].weight, stride)

    height, width = (math.ceil(side / stride) for side in x.shape[2:])
    padded = nn.functional.pad(x, (1, 1 + stride, 1, 1 + stride), value=-math.inf)
    taps = [padded[..., i::stride, j::stride] for i in range(3) for j in range(3)]
    largest = torch.stack([tap[..., :height, :width] for tap in taps]).amax(0)
    maps = [
        conv(blocks(x, stride), point[1].weight),
        reduced(three),
        reduced(five),
        conv(largest, pooled[1].weight),
    ]
    return torch.cat(maps, 1)


def involution(operator, x, stride):
    reduce, span = operator.reduce, operator.span
    hidden = relu(norm(conv(blocks(x, stride), reduce[0].weight), reduce[1]))
    kernels = conv(hidden, span.weight) + span.bias.reshape(1, -1, 1, 1)
    height, width = kernels.shape[2:]
    kernels = kernels.unflatten(1, (-1, 49))
    padded = nn.functional.pad(x, (3, 3 + stride, 3, 3 + stride))
    out = 0
    for tap in range(49):
        view = padded[..., tap // 7 :: stride, tap % 7 :: stride][..., :height, :width]
        own = kernels[:, :, tap].repeat_interleave(x.shape[1] // kernels.shape[1], 1)
        out = out + own * view
    return conv(out, operator.project.weight)


def octave(operator, x, stride):
    kernel = operator.conv.weight
    x = blocks(x, stride)
    cut_in, cut_out = x.shape[1] - x.shape[1] // 4, kernel.shape[0] - kernel.shape[0] // 4
    high, low = x[:, :cut_in], blocks(x[:, cut_in:], 2)
    up = stretched(conv(low, kernel[:cut_out, cut_in:]), x)
    low_out = conv(low, kernel[cut_out:, cut_in:]) + conv(
        blocks(high, 2), kernel[cut_out:, :cut_in]
    )
    return torch.cat([conv(high, kernel[:cut_out, :cut_in]) + up, stretched(low_out, x)], 1)


def selective_kernel(operator, x, stride):
    small, large = operator.small, operator.large
    groups = small[0].groups
    maps = [
        relu(norm(conv(x, small[0].weight, stride, 1, groups), small[1])),
        relu(norm(conv(x, large[0].weight, stride, 2, groups), large[1])),
    ]
    pooled = mean(maps[0] + maps[1])[..., None, None]
    hidden = relu(norm(conv(pooled, operator.squeeze[0].weight), operator.squeeze[1]))
    attention = softmax(conv(hidden, operator.select.weight).unflatten(1, (2, -1)), 1)
    return attention[:, 0] * maps[0] + attention[:, 1] * maps[1]


def self_calibrated(operator, x, stride):
    a, b = x[:, : math.ceil(x.shape[1] / 2)], x[:, math.ceil(x.shape[1] / 2) :]
    wide = norm(conv(blocks(a, 4), operator.wide[0].weight), operator.wide[1])
    rows, columns = (
        torch.tensor([i * small // large for i in range(large)])
        for small, large in zip(wide.shape[2:], a.shape[2:])
    )
    gate = sigmoid(a + wide[:, :, rows][:, :, :, columns])
    near = norm(conv(a, operator.near[0].weight), operator.near[1])
    out = conv(near * gate, operator.calibrated.weight, stride)
    return torch.cat([out, conv(b, operator.plain.weight, stride)], 1)


def spatially_separable(operator, x, stride):
    """One kernel of low rank."""
    column, row = operator[0].weight[..., 0], operator[1].weight[:, :, 0]
    return conv(x, torch.einsum("omv,miu->oiuv", row, column), stride)


def split_attention(operator, x, stride):
    maps = relu(norm(conv(x, operator.conv.weight, stride, groups=2), operator.bn0))
    maps = maps.unflatten(1, (2, -1))
    pooled = mean(maps[:, 0] + maps[:, 1])[..., None, None]
    hidden = conv(pooled, operator.fc1.weight) + operator.fc1.bias.reshape(1, -1, 1, 1)
    logits = conv(relu(norm(hidden, operator.bn1)), operator.fc2.weight)
    logits = logits + operator.fc2.bias.reshape(1, -1, 1, 1)
    attention = softmax(logits.unflatten(1, (2, -1)), 1)
    return (attention * maps).sum(1)


def transposed(operator, x, stride):
    """Stamps: every pixel adds its multiple of the kernel to the pixels around it."""
    x = blocks(x, stride)
    kernel = operator.conv.weight
    height, width = x.shape[2:]
    out = x.new_zeros(x.shape[0], kernel.shape[1], height + 2, width + 2)
    for h in range(height):
        for w in range(width):
            out[:, :, h : h + 3, w : w + 3] += torch.einsum("bi,iouv->bouv", x[:, :, h, w], kernel)
    return out[:, :, 1:-1, 1:-1]


ORACLES: dict[str, Callable[[nn.Module, Tensor, int], Tensor]] = {
    "asymmetric": asymmetric,
    "condconv": condconv,
    "convolution": lambda operator, x, stride: conv(x, operator.weight, stride),
    "deformable": deformable,
    "depthwise": depthwise,
    "depthwise_separable": depthwise_separable,
    "diverse_branch": diverse_branch,
    "do_conv": do_conv,
    "dynamic": dynamic,
    "ghost": ghost,
    "graph": graph,
    "graph_knn": graph_knn,
    "heterogeneous": heterogeneous,
    "inception": inception,
    "inverted_residual": inverted_residual,
    "involution": involution,
    "octave": octave,
    "selective_kernel": selective_kernel,
    "self_calibrated": self_calibrated,
    "spatially_separable": spatially_separable,
    "split_attention": split_attention,
    "transposed": transposed,
}
OPERATORS = list(ORACLES)  # other tests may register more
