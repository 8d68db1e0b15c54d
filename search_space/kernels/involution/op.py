"""The operators ``evolute::involution`` and ``evolute::involution_backward``.

One registration serves every device; the implementation is chosen per device (`active_backend`).
Autocast, torch.compile, export, DDP and the FLOP counter see an operator like any other.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from search_space.kernels import own_nodes
from search_space.kernels.backends import choose_backend, require_cpu
from search_space.kernels.derivatives import register_derivatives
from search_space.kernels.involution import cpu, onnx, shift
from search_space.kernels.memory_format import dense, is_channels_last


def involution(
    input: Tensor, weight: Tensor, kernel_size: int, stride: int = 1, dilation: int = 1
) -> Tensor:
    """Convolve every pixel with its own kernel, shared by the C/G channels of a group.

    ``output[b, c, p] = sum_ij weight[b, g(c)*K*K + i*K + j, p]
    * input[b, c, stride*p + dilation*(i - K//2, j - K//2)]`` with zero padding and
    ``g(c) = c // (C // G)``.

    Args:
        input: (B, C, H, W).
        weight: (B, G*K*K, H', W') with H' = ceil(H / stride); G divides C.
        kernel_size: K, odd.
        stride: Step between the pixels that are computed.
        dilation: Distance of a kernel's taps.

    Returns:
        (B, C, H', W'), in the dtype and memory format of ``input``; under autocast both inputs
        are cast to the autocast dtype first. Half types accumulate in float32.

    Raises:
        ValueError: A shape, dtype or device does not fit.

    Second derivatives and forward mode take the plain form, which is slower (`derivatives`).

    Source: Li et al., Involution: Inverting the Inherence of Convolution for Visual
    Recognition, CVPR 2021, equation 4.
    """
    if torch.onnx.is_in_onnx_export():  # ONNX has no involution
        if own_nodes.is_kept():
            return onnx.node(input, (weight,), kernel_size, stride, dilation)
        return onnx.forward(input, weight, kernel_size, stride, dilation)
    return torch.ops.evolute.involution.default(input, weight, kernel_size, stride, dilation)


def spanned_involution(
    input: Tensor,
    features: Tensor,
    span: nn.Conv2d,
    kernel_size: int,
    stride: int = 1,
    dilation: int = 1,
) -> Tensor:
    """Compute `involution` with the weights that a 1x1 convolution makes of features.

    Where an export keeps our operators, both are one node: the weights, many times as large as the
    features, then never leave the cache.

    Args:
        features: (B, F, H', W').
        span: From F to G*K*K channels, with a bias.
    """
    if torch.onnx.is_in_onnx_export() and span.bias is not None:
        if own_nodes.is_kept():
            generator = (features, span.weight.flatten(1).t(), span.bias)
            return onnx.node(input, generator, kernel_size, stride, dilation)
        if span.in_channels <= onnx.FEW:
            return onnx.forward_spanned(input, features, span, kernel_size, stride, dilation)
    return involution(input, span(features), kernel_size, stride, dilation)


@functools.cache
def active_backend(device: torch.device | str = "cpu") -> str:
    """Return which implementation runs on a device: ``native``, ``triton`` or ``shift``.

    The native kernel on the CPU (compiled now if this is its first use), Triton on CUDA, and
    shift-and-add in plain torch elsewhere or where those cannot be had; ``EVOLUTE_INVOLUTION``
    forces a choice (`choose_backend`). Decided once per process and device.

    Raises:
        UserError: The environment variable names no implementation.
    """
    kernels = {"native": _try_native, "triton": _try_triton}
    return choose_backend("involution", torch.device(device).type, kernels, "shift")


def _try_native(kind: str) -> None:
    require_cpu(kind)
    cpu.library()


def _try_triton(kind: str) -> None:
    """Compile the kernels and run them on one pixel: a missing or broken Triton shows here."""
    one = torch.ones(1, 1, 1, 1, device=kind)
    _triton().forward(one, one, 1, 1, 1)
    _triton().backward(one, one, one, 1, 1, 1)


def _triton() -> ModuleType:
    return importlib.import_module("search_space.kernels.involution.triton")  # needs triton


def _implementation(tensor: Tensor) -> ModuleType:
    backend = active_backend(tensor.device)
    if backend == "native" and tensor.dtype in cpu.DTYPES:
        return cpu
    if backend == "triton" and tensor.dtype is not torch.float64:
        return _triton()
    return shift


def _forward(input: Tensor, weight: Tensor, kernel_size: int, stride: int, dilation: int) -> Tensor:
    _check(input, weight, kernel_size, stride, dilation)
    output = _implementation(input).forward(input, weight, kernel_size, stride, dilation)
    return dense(output, is_channels_last(input))


def _forward_fake(
    input: Tensor, weight: Tensor, kernel_size: int, stride: int, dilation: int
) -> Tensor:
    size = _check(input, weight, kernel_size, stride, dilation)
    return dense(input.new_empty(size), is_channels_last(input))


def _backward(
    grad: Tensor, input: Tensor, weight: Tensor, kernel_size: int, stride: int, dilation: int
) -> tuple[Tensor, Tensor]:
    size = _check(input, weight, kernel_size, stride, dilation)
    if tuple(grad.shape) != size or grad.dtype != input.dtype:
        raise ValueError(f"gradient is {grad.dtype} {tuple(grad.shape)}, expected {size}")
    arguments = (grad, input, weight, kernel_size, stride, dilation)
    grad_input, grad_weight = _implementation(input).backward(*arguments)
    return (
        dense(grad_input, is_channels_last(input)),
        dense(grad_weight, is_channels_last(weight)),
    )


def _backward_fake(
    grad: Tensor, input: Tensor, weight: Tensor, kernel_size: int, stride: int, dilation: int
) -> tuple[Tensor, Tensor]:
    return (
        dense(input.new_empty(input.shape), is_channels_last(input)),
        dense(weight.new_empty(weight.shape), is_channels_last(weight)),
    )


def _check(
    input: Tensor, weight: Tensor, kernel_size: int, stride: int, dilation: int
) -> tuple[int, int, int, int]:
    """Return the output's shape; refuse what a kernel that works on raw memory must not see."""
    if kernel_size % 2 == 0 or min(kernel_size, stride, dilation) < 1:
        raise ValueError(
            f"kernel_size {kernel_size} must be odd, stride {stride}, dilation {dilation} positive"
        )
    if input.dtype != weight.dtype or input.device != weight.device:
        raise ValueError(
            f"input ({input.dtype}, {input.device}) and weight ({weight.dtype}, {weight.device}) "
            "must agree in dtype and device"
        )
    batch, channels, height, width = input.shape
    rows, columns = -(-height // stride), -(-width // stride)
    groups = weight.shape[1] // (kernel_size * kernel_size)
    if groups == 0 or channels % groups:
        raise ValueError(f"{groups} groups of {kernel_size}x{kernel_size} for {channels} channels")
    expected = (batch, groups * kernel_size * kernel_size, rows, columns)
    if tuple(weight.shape) != expected:
        raise ValueError(f"weight has shape {tuple(weight.shape)}, expected {expected}")
    return batch, channels, rows, columns


def _plain(input: Tensor, weight: Tensor, kernel_size: int, stride: int, dilation: int) -> Tensor:
    _check(input, weight, kernel_size, stride, dilation)
    return shift.forward(input, weight, kernel_size, stride, dilation)


def _autocast(device_type: str, excluded: torch._C.DispatchKeySet):
    """Run in the autocast dtype, like a convolution; float64 is left alone."""

    def involution(input: Tensor, weight: Tensor, *geometry: int) -> Tensor:
        dtype = torch.get_autocast_dtype(device_type)
        if torch.float64 not in (input.dtype, weight.dtype):
            input, weight = input.to(dtype), weight.to(dtype)
        with torch._C._ExcludeDispatchKeyGuard(excluded):
            return torch.ops.evolute.involution.default(input, weight, *geometry)

    return involution


_library = torch.library.Library("evolute", "FRAGMENT")
_tags = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order)
_geometry = "int kernel_size, int stride, int dilation"
_library.define(f"involution(Tensor input, Tensor weight, {_geometry}) -> Tensor", tags=_tags)
_library.define(
    f"involution_backward(Tensor grad, Tensor input, Tensor weight, {_geometry})"
    " -> (Tensor, Tensor)",
    tags=_tags,
)
_library.impl("involution", _forward, "CompositeExplicitAutograd")
_library.impl("involution_backward", _backward, "CompositeExplicitAutograd")
for _device_type, _key in (("cpu", "AutocastCPU"), ("cuda", "AutocastCUDA")):
    _excluded = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, _key))
    _library.impl("involution", _autocast(_device_type, _excluded), _key)
torch.library.register_fake("evolute::involution", _forward_fake, lib=_library)
torch.library.register_fake("evolute::involution_backward", _backward_fake, lib=_library)
register_derivatives(_library, "involution", 2, _plain)


@register_flop_formula(torch.ops.evolute.involution)
def _flops(input_shape, weight_shape, kernel_size, stride, dilation, *, out_shape=None) -> int:
    """Count two per multiply-add: B * C * H' * W' * K * K of them."""
    return 2 * input_shape[0] * input_shape[1] * weight_shape[2] * weight_shape[3] * kernel_size**2


@register_flop_formula(torch.ops.evolute.involution_backward)
def _backward_flops(
    grad_shape, input_shape, weight_shape, kernel_size, stride, dilation, *, out_shape=None
) -> int:
    """Count as many multiply-adds for either gradient as for the forward pass."""
    return 2 * _flops(input_shape, weight_shape, kernel_size, stride, dilation)
