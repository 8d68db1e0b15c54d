"""The involution kernels against a brute-force sum in float64, and as an operator of torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from search_space.kernels.compilation import integers
from search_space.kernels.involution import active_backend, cpu, involution, onnx, shift

ROOT = Path(__file__).parents[3]
OPERATOR = torch.ops.evolute.involution.default

# K, stride, dilation, channels, groups, height, width, batch
CASES = [
    (1, 1, 1, 16, 1, 5, 6, 2),
    (3, 1, 1, 32, 2, 9, 7, 1),
    (3, 2, 2, 6, 6, 7, 9, 2),
    (3, 3, 1, 40, 2, 8, 5, 2),
    (5, 1, 2, 24, 3, 11, 6, 1),
    (5, 2, 1, 10, 5, 1, 1, 3),
    (7, 1, 1, 48, 3, 9, 14, 2),
    (7, 2, 1, 64, 2, 15, 13, 1),
    (7, 3, 2, 20, 1, 10, 23, 2),
    (9, 1, 2, 16, 2, 6, 9, 1),
]
FORMATS = [torch.contiguous_format, torch.channels_last]


def brute_force(input, weight, grad, kernel_size, stride, dilation):
    """Output and both gradients, pixel by pixel and tap by tap, in float64."""
    x, kernels, g = (t.detach().double().numpy() for t in (input, weight, grad))
    channels, height, width = x.shape[1:]
    groups = kernels.shape[1] // kernel_size**2
    width_of_group = channels // groups
    output, grad_x, grad_kernels = np.zeros(g.shape), np.zeros(x.shape), np.zeros(kernels.shape)
    for h, w in np.ndindex(*g.shape[2:]):
        for i, j in np.ndindex(kernel_size, kernel_size):
            row = stride * h + dilation * (i - kernel_size // 2)
            column = stride * w + dilation * (j - kernel_size // 2)
            if not (0 <= row < height and 0 <= column < width):
                continue
            for group in range(groups):
                tap = group * kernel_size**2 + i * kernel_size + j
                members = slice(group * width_of_group, (group + 1) * width_of_group)
                pixel, kernel = x[:, members, row, column], kernels[:, tap, h, w][:, None]
                output[:, members, h, w] += kernel * pixel
                grad_x[:, members, row, column] += kernel * g[:, members, h, w]
                grad_kernels[:, tap, h, w] += (pixel * g[:, members, h, w]).sum(1)
    return tuple(torch.from_numpy(a) for a in (output, grad_x, grad_kernels))


def tensors(case, dtype=torch.float32, layout=torch.contiguous_format) -> list[Tensor]:
    """Input, weight and a gradient of the output."""
    kernel_size, stride, _, channels, groups, height, width, batch = case
    generator = torch.Generator().manual_seed(0)
    size = (-(-height // stride), -(-width // stride))
    shapes = [
        (batch, channels, height, width),
        (batch, groups * kernel_size**2, *size),
        (batch, channels, *size),
    ]
    made = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    return [tensor.contiguous(memory_format=layout) for tensor in made]


def assert_close(results, expected, dtype) -> None:
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float64: 1e-12}[dtype]
    for result, value in zip(results, expected, strict=True):
        assert result.dtype == dtype
        error = (result.double() - value).abs().max()
        assert error <= tolerance * value.abs().max().clamp_min(1.0)


def run(script: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---- Values


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_native_kernel_equals_brute_force(case, dtype, layout):
    if active_backend("cpu") != "native":
        pytest.skip("no C++ compiler here")
    input, weight, grad = tensors(case, dtype, layout)
    geometry = case[:3]
    expected = brute_force(input, weight, grad, *geometry)
    for threads in (1, 3):
        torch.set_num_threads(threads)
        output = cpu.forward(input, weight, *geometry)
        gradients = cpu.backward(grad, input, weight, *geometry)
        assert_close((output, *gradients), expected, dtype)
    assert output.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("form", [shift.forward, onnx.forward])
@pytest.mark.parametrize("case", CASES)
def test_torch_forms_equal_brute_force(form, case):
    input, weight, grad = tensors(case, torch.float64)
    expected = brute_force(input, weight, grad, *case[:3])
    input.requires_grad_(), weight.requires_grad_()
    output = form(input, weight, *case[:3])
    gradients = torch.autograd.grad(output, (input, weight), grad)
    assert_close((output, *gradients), expected, torch.float64)


def spanned(case, dtype) -> tuple[Tensor, Tensor, torch.nn.Conv2d, Tensor]:
    """Input, features, the convolution that makes kernels of them, and the expected output."""
    input, weight, grad = tensors(case, dtype)
    generator = torch.Generator().manual_seed(1)
    size = (input.shape[0], 5, *weight.shape[2:])
    features = torch.randn(size, generator=generator, dtype=dtype)
    span = torch.nn.Conv2d(5, weight.shape[1], 1, dtype=dtype)
    weight = torch.einsum("kf,bfhw->bkhw", span.weight.flatten(1), features)
    weight = (weight + span.bias[:, None, None]).detach()
    return input, features, span, brute_force(input, weight, grad, *case[:3])[0]


@pytest.mark.parametrize("case", CASES)
def test_exported_products_that_make_the_kernels_equal_brute_force(case):
    input, features, span, expected = spanned(case, torch.float64)
    output = onnx.forward_spanned(input, features, span, *case[:3])
    assert_close((output,), (expected,), torch.float64)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_native_kernel_that_makes_the_kernels_equals_brute_force(case, threads):
    if active_backend("cpu") != "native":
        pytest.skip("no C++ compiler here")
    input, features, span, expected = spanned(case, torch.float32)
    taps, output = span.weight.flatten(1).t().contiguous(), torch.empty_like(expected).float()
    groups = taps.shape[1] // case[0] ** 2
    sizes = integers(*input.shape, groups, *case[:3], 0, 0, 0, threads, features.shape[1])
    arguments = (input, features, taps, span.bias, output)
    cpu.library().involution_spanned(sizes, *(tensor.data_ptr() for tensor in arguments))
    assert_close((output,), (expected,), torch.float32)


@pytest.mark.parametrize("case", CASES)
def test_shift_and_add_backward_equals_brute_force(case):
    input, weight, grad = tensors(case, torch.bfloat16)
    results = shift.backward(grad, input, weight, *case[:3])
    assert_close(results, brute_force(input, weight, grad, *case[:3])[1:], torch.bfloat16)


def test_memory_formats_may_be_mixed_and_strided():
    case = (3, 1, 1, 32, 2, 9, 7, 2)
    input, weight, grad = tensors(case)
    expected = brute_force(input, weight, grad, *case[:3])
    wide = torch.randn(2, 64, 9, 14)[:, ::2, :, ::2].copy_(input).requires_grad_()
    last = weight.contiguous(memory_format=torch.channels_last).requires_grad_()
    output = involution(wide, last, 3)
    gradients = torch.autograd.grad(output, (wide, last), grad.expand_as(grad))
    assert_close((output, *gradients), expected, torch.float32)


def test_results_do_not_depend_on_threads_or_repetition():
    input, weight, grad = tensors((7, 1, 1, 64, 4, 33, 17, 3))
    results = []
    for threads in (1, 2, 2, 5):
        torch.set_num_threads(threads)
        gradients = cpu.backward(grad, input, weight, 7, 1, 1)
        results.append((cpu.forward(input, weight, 7, 1, 1), *gradients))
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_infinite_weights_reach_only_their_own_pixel():
    input, weight, _ = tensors((3, 1, 1, 16, 1, 6, 6, 1))
    weight[0, 0, 2, 3] = torch.inf
    output = involution(input, weight, 3)
    assert not output[..., 2, 3].isfinite().any()
    output[..., 2, 3] = 0
    assert output.isfinite().all()


# ---- An operator of torch


def test_gradcheck_through_the_operator():
    input, weight, _ = tensors((3, 2, 1, 4, 2, 5, 3, 2), torch.float64)
    inputs = (input.requires_grad_(), weight.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, w: involution(x, w, 3, 2), inputs)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("stride", [1, 2])
def test_opcheck(layout, stride):
    input, weight, grad = tensors((3, stride, 1, 32, 2, 7, 5, 2), layout=layout)
    backward = torch.ops.evolute.involution_backward.default
    torch.library.opcheck(backward, (grad, input, weight, 3, stride, 1))
    input.requires_grad_(), weight.requires_grad_()
    torch.library.opcheck(OPERATOR, (input, weight, 3, stride, 1))


def test_compile_without_graph_breaks():
    input, weight, grad = tensors((7, 1, 1, 32, 2, 9, 9, 2), layout=torch.channels_last)

    def function(x, w):
        return involution(x * 2, w, 7).relu()

    results = []
    for each in (function, torch.compile(function, fullgraph=True)):
        inputs = [t.clone().requires_grad_() for t in (input, weight)]
        output = each(*inputs)
        results.append((output, *torch.autograd.grad(output, inputs, grad)))
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(eager, compiled)
        assert eager.stride() == compiled.stride()


def test_autocast_runs_in_the_autocast_dtype():
    input, weight, _ = tensors((3, 1, 1, 32, 2, 6, 6, 1))
    input.requires_grad_()
    expected = involution(input, weight, 3)
    with torch.autocast("cpu", torch.bfloat16):
        output = involution(input, weight.bfloat16(), 3)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected, atol=0.1, rtol=0.02)
    output.sum().backward()
    assert input.grad is not None and input.grad.dtype == torch.float32


def test_export_keeps_the_operator_and_a_dynamic_batch():
    class Module(torch.nn.Module):
        def forward(self, x, w):
            return involution(x, w, 3, 2)

    input, weight, _ = tensors((3, 2, 1, 32, 2, 7, 7, 2))
    batch = torch.export.Dim("batch")
    dynamic = ({0: batch}, {0: batch})
    program = torch.export.export(Module(), (input, weight), dynamic_shapes=dynamic)
    assert OPERATOR in [node.target for node in program.graph.nodes]
    more = [torch.cat([t] * 3) for t in (input, weight)]
    torch.testing.assert_close(program.module()(*more), Module()(*more))


def test_flops_are_two_per_multiply_add():
    from torch.utils.flop_counter import FlopCounterMode

    input, weight, _ = tensors((5, 2, 1, 32, 2, 9, 8, 3))
    input.requires_grad_()
    with FlopCounterMode(display=False) as counter:
        output = involution(input, weight, 5, 2)
        assert counter.get_total_flops() == 2 * 3 * 25 * 32 * 5 * 4
        output.sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 3 * 25 * 32 * 5 * 4


def test_nothing_is_saved_but_the_inputs():
    input, weight, _ = tensors((7, 1, 1, 32, 2, 8, 8, 2))
    input.requires_grad_(), weight.requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        involution(input, weight, 7)
    assert sorted(t.data_ptr() for t in saved) == sorted((input.data_ptr(), weight.data_ptr()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((1, 32, 8, 8), (1, 32, 8, 8), 4), "odd"),
        (((1, 32, 8, 8), (1, 18, 8, 8), 3, 1, 0), "dilation 0"),
        (((1, 32, 8, 8), (1, 27, 8, 8), 3), "3 groups"),
        (((1, 32, 8, 8), (1, 18, 8, 8), 3, 2), "expected"),
        (((1, 32, 8, 8), (2, 18, 8, 8), 3), "expected"),
    ],
)
def test_wrong_shapes_are_refused(arguments, message):
    input, weight, *rest = arguments
    with pytest.raises(ValueError, match=message):
        involution(torch.zeros(input), torch.zeros(weight), *rest)


def test_dtypes_must_agree_and_an_empty_batch_is_fine():
    for dtype in (torch.float32, torch.bfloat16):
        nothing = torch.zeros(0, 16, 4, 4, dtype=dtype, requires_grad=True)
        output = involution(nothing, torch.zeros(0, 9, 4, 4, dtype=dtype), 3)
        output.sum().backward()
        assert output.shape == (0, 16, 4, 4)
    with pytest.raises(ValueError, match="agree"):
        involution(torch.zeros(1, 16, 4, 4), torch.zeros(1, 9, 4, 4).double(), 3)


# ---- The choice of the implementation


FORCED = """
import warnings, torch
from search_space.kernels import active_backend
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert active_backend("cpu") == "shift"
assert ["triton kernel is not available" in str(w.message) for w in caught] == [True], caught
"""


def test_a_choice_that_cannot_run_falls_back():
    result = run(FORCED, EVOLUTE_INVOLUTION="triton", TRITON_INTERPRET="0")
    assert result.returncode == 0, result.stderr


BROKEN = """
import warnings, torch
from search_space.kernels.compilation import integers
from search_space.kernels.involution import active_backend, involution
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        output = involution(torch.ones(1, 16, 4, 4), torch.ones(1, 9, 4, 4), 3)
assert output[0, 0, 1, 1] == 9, output
assert active_backend("cpu") == "shift"
messages = [str(w.message) for w in caught if "involution" in str(w.message)]
assert len(messages) == 1 and "false" in messages[0], messages
"""


def test_a_broken_compiler_is_reported_once_and_falls_back(tmp_path):
    result = run(BROKEN, CXX="/bin/false", XDG_CACHE_HOME=str(tmp_path))
    assert result.returncode == 0, result.stderr


def test_several_processes_may_compile_at_once(tmp_path):
    script = "from search_space.kernels.involution import cpu; print(cpu.library()._name)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path)}
    processes = [
        subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    names = {process.communicate(timeout=300)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(names) == 1
    assert len(list(tmp_path.glob("evolute/*.so"))) == 1


INTERPRETED = """
import torch
import test_involution as tests
from search_space.kernels.compilation import integers
from search_space.kernels.involution import active_backend, triton
assert active_backend("cpu") == "triton"
for case in [(3, 1, 1, 6, 2, 4, 5, 2), (3, 2, 2, 40, 1, 5, 4, 1)]:
    for dtype, layout in zip((torch.float32, torch.bfloat16), tests.FORMATS):
        input, weight, grad = tests.tensors(case, dtype, layout)
        output = triton.forward(input, weight, *case[:3])
        results = (output, *triton.backward(grad, input, weight, *case[:3]))
        tests.assert_close(results, tests.brute_force(input, weight, grad, *case[:3]), dtype)
"""


def test_triton_kernels_in_the_interpreter():
    pytest.importorskip("triton")
    result = run(INTERPRETED, TRITON_INTERPRET="1", EVOLUTE_INVOLUTION="triton")
    assert result.returncode == 0, result.stderr


# ---- ONNX


def test_onnx_with_a_dynamic_batch(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    class Module(torch.nn.Module):
        def forward(self, x, w):
            return involution(x, w, 5, 2)

    case = (5, 2, 1, 32, 2, 9, 31, 2)
    input, weight, _ = tensors(case)
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        Module().eval(),
        (input, weight),
        dynamo=True,
        dynamic_shapes=({0: batch}, {0: batch}),
        verbose=False,
    )
    program.save(tmp_path / "involution.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "involution.onnx")
    names = [entry.name for entry in session.get_inputs()]
    for size in (1, 2, 5):
        inputs = [tensor.repeat(3, 1, 1, 1)[:size] for tensor in (input, weight)]
        (result,) = session.run(None, {n: t.numpy() for n, t in zip(names, inputs, strict=True)})
        torch.testing.assert_close(torch.from_numpy(result), involution(*inputs, 5, 2))
