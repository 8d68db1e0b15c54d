"""How fast is involution here? Ours against unfold, shift-and-add and what the hardware allows.

    python benchmarks/involution.py [--device cuda] [--threads 2] [--rounds 15] [--quick]

Every line is one shape (batch, channels, side, K) with 16 channels a group, forward and forward +
backward. The contenders take turns within a round, so that drift of the machine meets all of them
alike; the figures are medians over rounds. On 2 CPU cores the whole run takes about three minutes,
most of which torch.compile spends on the shift-and-add form; ``--quick`` takes some seconds and
leaves that out.

Contenders: `ours` on channels-last tensors; `unfold`, the published form, and `shift` (and add) on
contiguous ones, as is `compiled`, shift-and-add under torch.compile. Floors: `copy` moves as many
bytes as reading every input and writing every output once; `peak` does as many multiply-adds at the
rate of a large matrix product. `onnx` is the exported form in ONNX Runtime, forward only, timed
after the others have taken their turns.
"""

from __future__ import annotations

import argparse
import io
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))  # run from a checkout, installed or not

from search_space.kernels import active_backend
from search_space.kernels.involution import involution, shift

SHAPES = [(32, 64, 32, 7), (64, 128, 16, 7), (8, 256, 28, 7), (64, 64, 8, 3)]
QUICK_SHAPES = [(2, 32, 8, 7), (2, 32, 8, 3)]
GROUP_CHANNELS = 16
SAMPLE_SECONDS = 0.02  # calls are repeated until a sample is this long


def unfold_involution(x: Tensor, weight: Tensor, kernel_size: int) -> Tensor:
    """Run the usual implementation: every patch is written out, K*K times the input."""
    batch, channels, height, width = x.shape
    groups = weight.shape[1] // kernel_size**2
    patches = F.unfold(x, kernel_size, padding=kernel_size // 2)
    patches = patches.view(batch, groups, channels // groups, kernel_size**2, height, width)
    kernels = weight.view(batch, groups, 1, kernel_size**2, height, width)
    return (kernels * patches).sum(3).view(batch, channels, height, width)


def tensors(shape, device: str, layout: torch.memory_format) -> tuple[Tensor, Tensor, Tensor]:
    """Input and weight that require gradients, and a gradient of the output."""
    batch, channels, side, kernel_size = shape
    generator = torch.Generator().manual_seed(0)
    taps = channels // GROUP_CHANNELS * kernel_size**2

    def normal(size: int) -> Tensor:
        made = torch.randn(batch, size, side, side, generator=generator)
        return made.to(device, memory_format=layout)

    return normal(channels).requires_grad_(), normal(taps).requires_grad_(), normal(channels)


def forward_call(function, x: Tensor, weight: Tensor, kernel_size: int) -> Callable[[], object]:
    @torch.no_grad()
    def call():
        return function(x, weight, kernel_size)

    return call


def training_call(
    function, x: Tensor, weight: Tensor, grad: Tensor, kernel_size: int
) -> Callable[[], object]:
    def call():
        return torch.autograd.grad(function(x, weight, kernel_size), (x, weight), grad)

    return call


def copy_call(elements: int, device: str) -> Callable[[], object]:
    """Move ``elements`` float32 values in all: half of them read, half of them written."""
    source = torch.ones(elements // 2, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def seconds_per_call(call: Callable[[], object], repeats: int, device: str) -> float:
    """As many calls before them, not timed, bring the contender's own data back into the caches."""
    for _ in range(repeats):
        call()
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def medians(calls: Mapping[str, Callable], rounds: int, device: str) -> dict[str, float]:
    """Median milliseconds of every call; one sample of each per round."""
    repeats = {}
    for name, call in calls.items():
        first = seconds_per_call(call, 2, device)  # compiles and allocates before it counts
        repeats[name] = max(1, min(200, round(SAMPLE_SECONDS / first)))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            samples[name].append(seconds_per_call(call, repeats[name], device))
    return {name: 1e3 * statistics.median(values) for name, values in samples.items()}


def peak_multiply_adds(device: str, rounds: int) -> float:
    """Multiply-adds per millisecond of a 1024 x 1024 x 1024 float32 matrix product."""
    a, b = torch.randn(2, 1024, 1024, device=device)
    return 1024**3 / medians({"mm": lambda: a @ b}, rounds, device)["mm"]


def saved_bytes(function, x: Tensor, weight: Tensor, kernel_size: int) -> int:
    """Return the bytes kept alive for the backward pass, each storage once."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        function(x, weight, kernel_size)
    return sum(storages.values())


def onnx_call(x: Tensor, weight: Tensor, kernel_size: int) -> Callable[[], object] | None:
    """Run the exported graph (dynamic batch) in ONNX Runtime on the CPU; None if not installed."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (torch.onnx needs it)
    except ImportError:
        return None

    class Module(torch.nn.Module):
        def forward(self, x: Tensor, weight: Tensor) -> Tensor:
            return involution(x, weight, kernel_size)

    example = tuple(tensor.detach().cpu()[:2].contiguous() for tensor in (x, weight))
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        Module().eval(),
        example,
        dynamo=True,
        dynamic_shapes=({0: batch}, {0: batch}),
        verbose=False,
    )
    buffer = io.BytesIO()
    program.save(buffer)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(buffer.getvalue(), options)
    values = (x.detach().cpu().contiguous().numpy(), weight.detach().cpu().contiguous().numpy())
    feed = {entry.name: value for entry, value in zip(session.get_inputs(), values, strict=True)}
    return lambda: session.run(None, feed)


def report(title: str, times: Mapping[str, float]) -> None:
    ours = times["ours"]
    cells = [f"{name} {value:.3g} ms ({value / ours:.2f}x)" for name, value in times.items()]
    print(f"  {title:<18} " + "  ".join(cells), flush=True)


def measure_shape(shape, device: str, rounds: int, quick: bool, peak: float) -> dict[str, float]:
    """Print one shape's lines; returns the ratios to ours of forward and forward + backward."""
    batch, channels, side, kernel_size = shape
    x, weight, grad = tensors(shape, device, torch.contiguous_format)
    ours = tensors(shape, device, torch.channels_last)
    contenders = {"unfold": unfold_involution, "shift": shift.forward}
    if not quick:
        torch._dynamo.reset()
        contenders["compiled"] = torch.compile(shift.forward, fullgraph=True, dynamic=False)
    macs = batch * channels * side**2 * kernel_size**2

    forward = {"ours": forward_call(involution, *ours[:2], kernel_size)}
    training = {"ours": training_call(involution, *ours, kernel_size)}
    for name, function in contenders.items():
        forward[name] = forward_call(function, x, weight, kernel_size)
        training[name] = training_call(function, x, weight, grad, kernel_size)
    forward["copy"] = copy_call(2 * x.numel() + weight.numel(), device)
    training["copy"] = copy_call(5 * x.numel() + 3 * weight.numel(), device)
    forward_times = medians(forward, rounds, device)
    training_times = medians(training, rounds, device)
    onnx = onnx_call(x, weight, kernel_size)
    if onnx is not None:  # after the others, since its threads go on spinning between two calls
        forward_times |= medians({"onnx": onnx}, rounds, device)
    forward_times["peak"], training_times["peak"] = macs / peak, 3 * macs / peak
    print(f"(B, C, H, K) = {shape}")
    report("forward", forward_times)
    report("forward+backward", training_times)
    kept = saved_bytes(involution, *ours[:2], kernel_size)
    unfolded = saved_bytes(unfold_involution, x, weight, kernel_size)
    ratio = kept / unfolded
    print(
        f"  saved for backward ours {kept / 2**20:.1f} MiB  unfold {unfolded / 2**20:.1f} MiB",
        end="",
    )
    print(f"  ({ratio:.3f} of it)")
    ratios = {f"forward {n}": t / forward_times["ours"] for n, t in forward_times.items()}
    ratios["saved"] = ratio
    return ratios | {f"training {n}": t / training_times["ours"] for n, t in training_times.items()}


def geometric_mean(values: list[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="two tiny shapes, no torch.compile")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.backends.cuda.matmul.allow_tf32 = False

    rounds = min(options.rounds, 3) if options.quick else options.rounds
    peak = peak_multiply_adds(options.device, rounds)
    print(
        f"torch {torch.__version__}, {options.device}, {options.threads} threads, "
        f"involution: {active_backend(options.device)}, peak {peak / 1e6:.0f} GMAC/s"
    )
    print("median milliseconds (times ours)")
    rows = [
        measure_shape(shape, options.device, rounds, options.quick, peak)
        for shape in (QUICK_SHAPES if options.quick else SHAPES)
    ]
    means = {name: geometric_mean([row[name] for row in rows]) for name in rows[0]}
    for name in ("shift", "compiled", "copy", "peak"):
        if f"forward {name}" in means:
            forward, training = means[f"forward {name}"], means[f"training {name}"]
            print(f"{name}: forward {forward:.2f}x ours, forward+backward {training:.2f}x ours")
    print(f"saved for backward: {means['saved']:.3f} of unfold's (geometric mean)")
    forward, training = means["forward unfold"], means["training unfold"]
    print(f"geometric mean: forward {forward:.1f}x unfold, forward+backward {training:.1f}x unfold")


if __name__ == "__main__":
    main()
