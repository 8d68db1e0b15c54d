"""The native convolution with mixed kernels, against one float64 convolution per image."""

import pytest
import torch
import torch.nn.functional as F

from search_space import build_operator
from search_space.kernels.expert_conv import active_backend, expert_convolution, mix_experts
from search_space.kernels.expert_conv.op import FEWEST_IMAGES, is_native

pytestmark = pytest.mark.skipif(active_backend("cpu") != "native", reason="no C++ compiler")

CASES = [  # batch, channels, output channels, height, width, kernel size, stride, experts
    (4, 16, 32, 8, 8, 3, 1, 4),
    (5, 7, 9, 5, 11, 3, 2, 3),
    (4, 33, 70, 9, 6, 3, 1, 8),
    (6, 20, 64, 14, 14, 3, 1, 4),
    (2, 64, 64, 7, 7, 5, 2, 2),
    (1, 5, 3, 9, 9, 7, 1, 2),
    (4, 3, 5, 13, 10, 1, 1, 1),
    (4, 16, 32, 8, 9, 1, 2, 4),
    (3, 130, 40, 4, 4, 3, 2, 4),
    (3, 40, 20, 1, 2, 3, 1, 4),
]


def tensors(case, channels_last=True):
    batch, channels, out_channels, height, width, kernel_size, _, experts = case
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, channels, height, width, generator=generator)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    shape = (experts, out_channels, channels, kernel_size, kernel_size)
    kernels = torch.randn(shape, generator=generator)
    weights = torch.rand(batch, experts, generator=generator)
    return tuple(tensor.requires_grad_() for tensor in (x, kernels, weights))


def image_by_image(x, kernels, weights, stride, padding):
    outputs = []
    for image, attention in zip(x, weights):
        kernel = sum(a * w for a, w in zip(attention, kernels))
        outputs.append(F.conv2d(image[None], kernel, None, stride, padding))
    return torch.cat(outputs)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(case, channels_last):
    stride, padding = case[6], case[5] // 2
    inputs = tensors(case, channels_last)
    exact = tuple(tensor.detach().double().requires_grad_() for tensor in inputs)
    output = expert_convolution(*inputs, stride, padding)
    expected = image_by_image(*exact, stride, padding)
    gradient = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(output, inputs, gradient)
    exact_gradients = torch.autograd.grad(expected, exact, gradient.double())
    assert output.is_contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )
    for ours, theirs in zip((output, *gradients), (expected, *exact_gradients), strict=True):
        scale = theirs.abs().max()
        torch.testing.assert_close(ours.double() / scale, theirs / scale, rtol=0, atol=3e-6)


def test_result_does_not_depend_on_the_number_of_threads():
    inputs = tensors(CASES[2])
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            output = expert_convolution(*inputs, 1, 1)
            results.append((output, *torch.autograd.grad(output.sum(), inputs)))
    finally:
        torch.set_num_threads(before)
    for others in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], others, strict=True))


@pytest.mark.parametrize("case", [CASES[0], CASES[1]], ids=str)
def test_registration(case):
    stride, padding = case[6], case[5] // 2
    torch.library.opcheck(
        torch.ops.evolute.expert_convolution.default, (*tensors(case), stride, padding)
    )


@pytest.mark.parametrize("name", ["dynamic", "condconv"])
def test_operators_use_it_for_batches_and_agree_with_the_mixed_groups(name):
    torch.manual_seed(0)
    operator = build_operator(name, 12, 20, 2)
    conv = operator.experts
    x = torch.randn(FEWEST_IMAGES, 12, 7, 9)
    assert is_native(x, conv.kernel_size, conv.stride, conv.groups)
    assert not is_native(x[1:], conv.kernel_size, conv.stride, conv.groups)
    weights = torch.rand(FEWEST_IMAGES, conv.num_experts)
    torch.testing.assert_close(
        mix_experts(conv, x, weights), conv(x, weights), rtol=1e-5, atol=1e-5
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_native(x, conv.kernel_size, conv.stride, conv.groups)
        assert operator(x).dtype is torch.bfloat16


def test_compiles_into_one_graph():
    torch.manual_seed(0)
    operator = build_operator("dynamic", 12, 12, 1)
    x = torch.randn(FEWEST_IMAGES, 12, 6, 6)
    compiled = torch.compile(operator, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), operator(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, k, w: (x[:, 1:], k, w, 1, 1), "do not fit"),
        (lambda x, k, w: (x, k, w[1:], 1, 1), "expected"),
        (lambda x, k, w: (x, k, w, 3, 1), "stride 3"),
        (lambda x, k, w: (x.double(), k, w, 1, 1), "float32"),
        (lambda x, k, w: (x[..., :0], k, w, 1, 0), "exceeds"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        expert_convolution(*change(*tensors(CASES[0])))
