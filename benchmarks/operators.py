"""The five families' default candidates against the best public form of each, in one run.

    python benchmarks/operators.py [--threads 2] [--rounds 15] [--quick]

Forward, and forward + backward, of the operator alone on channels-last tensors, in training mode.
The contenders take turns, so that drift of the machine meets both alike; figures are medians, and
`speed` is the median over rounds of the public form's time over ours: above 1 ours is faster.

Public forms: torch's convolution, the unfold involution, timm's SelectiveKernel, GhostModule, and
CondConv2d behind a softmax router. conv3 is torch's module itself, and ghost3 runs timm's: what
differs from 1 there is the noise of the run. Last, dynamic convolution against a static one of the
same shape at batch 64.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from timm.layers import CondConv2d, SelectiveKernel
from timm.models.ghostnet import GhostModule
from torch import Tensor, nn

from search_space import build_operator

SHAPES = ((64, 64, 16), (32, 128, 14), (8, 64, 56))  # batch, channels, height and width
DYNAMIC_SHAPES = ((64, 64, 16), (64, 128, 14), (64, 64, 28), (64, 256, 8))
QUICK_SHAPES = ((4, 16, 8),)
SAMPLE_MS = 50  # calls are repeated until a sample is this long


class UnfoldInvolution(nn.Module):
    """Involution as it is usually published: every patch is written out."""

    def __init__(self, channels: int, kernel_size: int = 7) -> None:
        super().__init__()
        self.kernel_size, self.groups = kernel_size, channels // 16
        hidden = max(channels // 4, 8)
        self.reduce = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU()
        )
        self.span = nn.Conv2d(hidden, self.groups * kernel_size**2, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        k = self.kernel_size
        kernels = self.span(self.reduce(x)).reshape(b, self.groups, 1, k * k, h, w)
        patches = F.unfold(x, k, padding=k // 2).view(b, self.groups, -1, k * k, h, w)
        return (kernels * patches).sum(3).view(b, c, h, w)


class SoftmaxCondConv(nn.Module):
    """timm's CondConv2d behind the router of dynamic convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 4, 4)
        self.router = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, 4))
        self.conv = CondConv2d(channels, channels, 3, padding=1, num_experts=4)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x, F.softmax(self.router(x.mean((2, 3))) / 30.0, dim=1))


class Rival(NamedTuple):
    """A default candidate of ours, and the public form of the same."""

    operator: str
    options: dict[str, int]
    public: Callable[[int], nn.Module]


RIVALS = {
    "conv3": Rival(
        "convolution", {"kernel_size": 3}, lambda c: nn.Conv2d(c, c, 3, padding=1, bias=False)
    ),
    "inv3": Rival("involution", {"kernel_size": 3}, lambda c: UnfoldInvolution(c, 3)),
    "inv7": Rival("involution", {"kernel_size": 7}, UnfoldInvolution),
    "sk": Rival(
        "selective_kernel",
        {},
        lambda c: SelectiveKernel(c, c, groups=min(c, 32), split_input=False, rd_channels=32),
    ),
    "dyn3": Rival("dynamic", {"kernel_size": 3}, SoftmaxCondConv),
    "ghost3": Rival(
        "ghost",
        {"kernel_size": 3},
        lambda c: GhostModule(c, c, kernel_size=3, act_layer=nn.Identity),
    ),
}


def calls_of(module: nn.Module, shape: tuple[int, int, int]) -> tuple[Callable, Callable]:
    """Forward without gradients, and forward + backward, on the same images."""
    batch, channels, side = shape
    module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(batch, channels, side, side, generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last).requires_grad_()
    gradient = torch.randn_like(images)
    leaves = [images, *module.parameters()]

    @torch.no_grad()
    def forward() -> object:
        return module(images)

    return forward, lambda: torch.autograd.grad(module(images), leaves, gradient)


def take_turns(calls: dict[str, Callable], rounds: int) -> dict[str, list[float]]:
    """Return milliseconds, a sample per call and round; every other round goes backwards."""

    def sample(call: Callable, repeats: int) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return 1e3 * (time.perf_counter() - start) / repeats

    repeats = {}
    for name, call in calls.items():
        call()
        repeats[name] = max(1, min(100, round(SAMPLE_MS / sample(call, 2))))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(rounds):
        for name in list(calls)[:: -1 if index % 2 else 1]:
            samples[name].append(sample(calls[name], repeats[name]))
    return samples


def quotient(samples: dict[str, list[float]], above: str, below: str) -> float:
    """Median over the rounds: what slows a whole round down does not count."""
    pairs = zip(samples[above], samples[below], strict=True)
    return statistics.median(a / b for a, b in pairs)


def compare(shapes: tuple[tuple[int, int, int], ...], rounds: int, console: Console) -> None:
    table = Table(title="ms, ours and the best public form", title_justify="left")
    table.add_column("candidate")
    table.add_column("B x C x H")
    for head in ("forward", "public", "speed", "fwd+bwd", "public", "speed"):
        table.add_column(head, justify="right")
    for name, rival in RIVALS.items():
        for shape in shapes:
            torch.manual_seed(0)
            channels = shape[1]
            ours = build_operator(rival.operator, channels, channels, 1, **rival.options)
            cells = []
            for mine, theirs in zip(calls_of(ours, shape), calls_of(rival.public(channels), shape)):
                samples = take_turns({"ours": mine, "public": theirs}, rounds)
                cells += [f"{statistics.median(times):.2f}" for times in samples.values()]
                cells.append(f"{quotient(samples, 'public', 'ours'):.2f}x")
            table.add_row(name, " x ".join(map(str, shape)), *cells)
    console.print(table)


def dynamic_against_static(
    shapes: tuple[tuple[int, int, int], ...], rounds: int, console: Console
) -> None:
    table = Table(title="Dynamic against static convolution, forward, ms", title_justify="left")
    table.add_column("B x C x H")
    for head in ("dynamic", "static", "dynamic / static"):
        table.add_column(head, justify="right")
    for shape in shapes:
        channels = shape[1]
        modules = {
            "dynamic": build_operator("dynamic", channels, channels, 1),
            "static": build_operator("convolution", channels, channels, 1),
        }
        calls = {name: calls_of(module, shape)[0] for name, module in modules.items()}
        samples = take_turns(calls, rounds)
        table.add_row(
            " x ".join(map(str, shape)),
            *(f"{statistics.median(times):.2f}" for times in samples.values()),
            f"{quotient(samples, 'dynamic', 'static'):.2f}",
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="one tiny shape, as a smoke test")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console = Console(width=100)
    console.print(f"torch {torch.__version__}, cpu, {options.threads} threads")
    rounds = 3 if options.quick else options.rounds
    compare(QUICK_SHAPES if options.quick else SHAPES, rounds, console)
    dynamic_against_static(QUICK_SHAPES if options.quick else DYNAMIC_SHAPES, rounds, console)


if __name__ == "__main__":
    main()
