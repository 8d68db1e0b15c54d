"""Every derivative of an operator whose kernels know the first one only.

The kernels compute an operator and its gradients. Whatever lies beyond (gradients of gradients,
forward mode, `torch.func` transforms that differentiate) is left to torch, which derives it from
the operator's plain form: right, to any order, and slower.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad


def register_derivatives(
    library: torch.library.Library, name: str, tensors: int, plain: Callable[..., Tensor]
) -> None:
    """Make an operator and its gradients differentiable.

    ``evolute::NAME`` and ``evolute::NAME_backward`` are defined; the second takes the output's
    gradient and then what the first takes, and returns a gradient for each of its tensors.

    Args:
        tensors: How many arguments are tensors; they come first, the others are integers.
        plain: The operator in plain torch.
    """
    forward = getattr(torch.ops.evolute, name).default
    backward = getattr(torch.ops.evolute, f"{name}_backward").default

    class Native(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *arguments):
            ctx.save_for_backward(*arguments[:tensors])
            ctx.integers = arguments[tensors:]
            with torch._C._AutoDispatchBelowAutograd():
                return forward(*arguments)

        @staticmethod
        def backward(ctx, grad):
            gradients = backward(grad, *ctx.saved_tensors, *ctx.integers)
            return (*gradients, *(None for _ in ctx.integers))

    def differentiable_forward(*arguments):
        if _is_transformed():
            return plain(*arguments)
        if _is_recorded(arguments[:tensors]):
            return Native.apply(*arguments)
        with torch._C._AutoDispatchBelowAutograd():
            return forward(*arguments)

    def differentiable_backward(grad, *arguments):
        inputs, integers = arguments[:tensors], arguments[tensors:]
        if _is_transformed() or _is_recorded((grad, *inputs)):
            return torch.func.vjp(lambda *values: plain(*values, *integers), *inputs)[1](grad)
        with torch._C._AutoDispatchBelowAutograd():
            return backward(grad, *arguments)

    library.impl(name, differentiable_forward, "Autograd")
    library.impl(f"{name}_backward", differentiable_backward, "Autograd")


def _is_recorded(tensors: tuple[Tensor, ...]) -> bool:
    """Whether what is computed from the tensors will be differentiated backwards."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _is_transformed() -> bool:
    """Whether forward mode, or a `torch.func` transform that differentiates, is at work.

    Under `torch.func.vmap` alone no kernel of the Autograd key is called.
    """
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()
