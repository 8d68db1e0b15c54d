"""The operators ``evolute::involution`` and ``evolute::involution_backward``.

One registration serves every device; the implementation is chosen per device (`active_backend`).
Autocast, torch.compile, export, DDP and the FLOP counter see an operator like any other.
"""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from types import ModuleType

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from configs.errors import UserError
from search_space.kernels import native, shift

VARIABLE = "EVOLUTE_INVOLUTION"
BACKENDS = ("native", "triton", "shift")


@functools.cache
def active_backend(device: torch.device | str = "cpu") -> str:
    """Which implementation runs on a device: ``native``, ``triton`` or ``shift``.

    The native kernel on the CPU (compiled now if this is its first use), Triton on CUDA, and
    shift-and-add in plain torch elsewhere or where those cannot be had. The environment variable
    ``EVOLUTE_INVOLUTION`` (auto, native, triton, shift) forces a choice; a choice that cannot run
    on the device is answered with a warning and ``shift``. Decided once per process and device.
    """
    kind = torch.device(device).type
    wanted = os.environ.get(VARIABLE, "auto")
    if wanted not in ("auto", *BACKENDS):
        raise UserError(f"{VARIABLE}={wanted}: expected one of auto, {', '.join(BACKENDS)}")
    if wanted == "auto":
        wanted = {"cpu": "native", "cuda": "triton"}.get(kind, "shift")
    if wanted == "shift":
        return wanted
    problem = _native_problem(kind) if wanted == "native" else _triton_problem(kind)
    if problem is None:
        return wanted
    warnings.warn(
        f"involution on {kind}: the {wanted} kernel is not available, "
        f"the slower shift-and-add form runs instead ({problem})",
        RuntimeWarning,
        stacklevel=2,
    )
    return "shift"


def _native_problem(kind: str) -> str | None:
    if kind != "cpu":
        return "it runs on the CPU only"
    try:
        native.library()
    except Exception as error:  # whatever a broken toolchain does, it must not end a search
        return str(error)
    return None


def _triton_problem(kind: str) -> str | None:
    """Compiles and runs the kernels on one pixel: a missing or broken Triton shows here."""
    try:
        one = torch.ones(1, 1, 1, 1, device=kind)
        _gpu().forward(one, one, 1, 1, 1)
        _gpu().backward(one, one, one, 1, 1, 1)
    except Exception as error:
        return str(error)
    return None


def _gpu() -> ModuleType:
    return importlib.import_module("search_space.kernels.gpu")  # needs triton


def _implementation(tensor: Tensor) -> ModuleType:
    backend = active_backend(tensor.device)
    if backend == "native" and tensor.dtype in native.DTYPES:
        return native
    if backend == "triton" and tensor.dtype is not torch.float64:
        return _gpu()
    return shift


def _format_of(tensor: Tensor) -> torch.memory_format:
    if tensor.is_contiguous() or not tensor.is_contiguous(memory_format=torch.channels_last):
        return torch.contiguous_format
    return torch.channels_last


def _forward(input: Tensor, weight: Tensor, kernel_size: int, stride: int, dilation: int) -> Tensor:
    _check(input, weight, kernel_size, stride, dilation)
    output = _implementation(input).forward(input, weight, kernel_size, stride, dilation)
    return output.contiguous(memory_format=_format_of(input))


def _forward_fake(
    input: Tensor, weight: Tensor, kernel_size: int, stride: int, dilation: int
) -> Tensor:
    size = _check(input, weight, kernel_size, stride, dilation)
    return input.new_empty(size).contiguous(memory_format=_format_of(input))


def _backward(
    grad: Tensor, input: Tensor, weight: Tensor, kernel_size: int, stride: int, dilation: int
) -> tuple[Tensor, Tensor]:
    size = _check(input, weight, kernel_size, stride, dilation)
    if tuple(grad.shape) != size or grad.dtype != input.dtype:
        raise ValueError(f"gradient is {grad.dtype} {tuple(grad.shape)}, expected {size}")
    arguments = (grad, input, weight, kernel_size, stride, dilation)
    grad_input, grad_weight = _implementation(input).backward(*arguments)
    return (
        grad_input.contiguous(memory_format=_format_of(input)),
        grad_weight.contiguous(memory_format=_format_of(weight)),
    )


def _backward_fake(
    grad: Tensor, input: Tensor, weight: Tensor, kernel_size: int, stride: int, dilation: int
) -> tuple[Tensor, Tensor]:
    return (
        input.new_empty(input.shape).contiguous(memory_format=_format_of(input)),
        weight.new_empty(weight.shape).contiguous(memory_format=_format_of(weight)),
    )


def _check(
    input: Tensor, weight: Tensor, kernel_size: int, stride: int, dilation: int
) -> tuple[int, int, int, int]:
    """Shapes and dtypes, before a kernel that works on raw memory sees them; the output's shape."""
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


def _setup_context(ctx, inputs, output) -> None:
    input, weight, *ctx.geometry = inputs
    ctx.save_for_backward(input, weight)


def _autograd_backward(ctx, grad: Tensor):
    input, weight = ctx.saved_tensors
    operator = torch.ops.evolute.involution_backward.default
    return *operator(grad, input, weight, *ctx.geometry), None, None, None


def _autocast(device_type: str, excluded: torch._C.DispatchKeySet):
    """Runs in the autocast dtype, like a convolution; float64 is left alone."""

    def involution(input: Tensor, weight: Tensor, *geometry: int) -> Tensor:
        dtype = torch.get_autocast_dtype(device_type)
        if torch.float64 not in (input.dtype, weight.dtype):
            input, weight = input.to(dtype), weight.to(dtype)
        with torch._C._ExcludeDispatchKeyGuard(excluded):
            return torch.ops.evolute.involution.default(input, weight, *geometry)

    return involution


_library = torch.library.Library("evolute", "DEF")
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
torch.library.register_autograd(
    "evolute::involution", _autograd_backward, setup_context=_setup_context, lib=_library
)


@register_flop_formula(torch.ops.evolute.involution)
def _flops(input_shape, weight_shape, kernel_size, stride, dilation, *, out_shape=None) -> int:
    """Two per multiply-add: B * C * H' * W' * K * K of them."""
    return 2 * input_shape[0] * input_shape[1] * weight_shape[2] * weight_shape[3] * kernel_size**2


@register_flop_formula(torch.ops.evolute.involution_backward)
def _backward_flops(
    grad_shape, input_shape, weight_shape, kernel_size, stride, dilation, *, out_shape=None
) -> int:
    """Both gradients take as many multiply-adds as the forward pass."""
    return 2 * _flops(input_shape, weight_shape, kernel_size, stride, dilation)
