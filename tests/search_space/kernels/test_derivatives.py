"""Second derivatives, forward mode and `torch.func` through the native operators.

The operators' plain forms are checked against finite differences in float64, the operators in
float32 against the plain forms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from search_space.kernels.expert_conv import active_backend, expert_convolution, grouped
from search_space.kernels.involution import involution, shift


@dataclass(frozen=True)
class Operator:
    operator: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    shapes: tuple[tuple[int, ...], ...]
    integers: tuple[int, ...]

    def tensors(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        made = (torch.randn(s, generator=generator, dtype=torch.float64) for s in self.shapes)
        return tuple(tensor.to(dtype) for tensor in made)

    def __call__(self, *tensors: Tensor) -> Tensor:
        return self.operator(*tensors, *self.integers)

    def reference(self, *tensors: Tensor) -> Tensor:
        return self.plain(*tensors, *self.integers)


needs_compiler = pytest.mark.skipif(active_backend("cpu") != "native", reason="no C++ compiler")
OPERATORS = {
    "involution": Operator(
        involution, shift.forward, ((1, 4, 3, 4), (1, 18, 3, 4)), (3, 1, 1)
    ),
    "involution, strided and dilated": Operator(
        involution, shift.forward, ((1, 4, 5, 6), (1, 9, 3, 3)), (3, 2, 2)
    ),
    "expert_convolution": Operator(
        expert_convolution, grouped.forward, ((2, 3, 5, 4), (2, 4, 3, 3, 3), (2, 2)), (2, 1)
    ),
}  # fmt: skip
all_operators = pytest.mark.parametrize(
    "case",
    [
        pytest.param(operator, id=name, marks=needs_compiler if name.startswith("exp") else ())
        for name, operator in OPERATORS.items()
    ],
)


def assert_close(ours: Tensor, exact: Tensor) -> None:
    scale = exact.abs().max()
    assert scale > 0
    torch.testing.assert_close(ours.double() / scale, exact / scale, rtol=0, atol=1e-5)


def penalty(operator: Callable[..., Tensor], tensors: tuple[Tensor, ...]) -> Tensor:
    """A loss of first derivatives, such as a gradient penalty."""
    gradients = torch.autograd.grad(operator(*tensors).pow(3).sum(), tensors, create_graph=True)
    return sum(gradient.pow(2).sum() for gradient in gradients)  # type: ignore[return-value]


@all_operators
def test_plain_forms_have_right_second_derivatives(case: Operator) -> None:
    tensors = tuple(tensor.requires_grad_() for tensor in case.tensors(torch.float64))
    assert torch.autograd.gradgradcheck(case.reference, tensors)
    if case.operator is involution:  # the one that takes float64 itself
        assert torch.autograd.gradcheck(case, tensors, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(case, tensors, check_fwd_over_rev=True)


@all_operators
def test_second_derivatives_are_not_silently_zero(case: Operator) -> None:
    ours = tuple(tensor.requires_grad_() for tensor in case.tensors())
    exact = tuple(tensor.requires_grad_() for tensor in case.tensors(torch.float64))
    second = torch.autograd.grad(penalty(case, ours), ours)
    expected = torch.autograd.grad(penalty(case.reference, exact), exact)
    for gradient, value in zip(second, expected):
        assert_close(gradient, value)


@all_operators
def test_second_derivatives_of_one_input_alone(case: Operator) -> None:
    for index in range(len(case.shapes)):
        ours, exact = case.tensors(), case.tensors(torch.float64)
        one, exact_one = ours[index].requires_grad_(), exact[index].requires_grad_()
        for operator, tensors, x in ((case, ours, one), (case.reference, exact, exact_one)):
            (first,) = torch.autograd.grad(operator(*tensors).pow(3).sum(), x, create_graph=True)
            first.pow(2).sum().backward()
        assert_close(one.grad, exact_one.grad)


@all_operators
def test_forward_mode_is_not_silently_zero(case: Operator) -> None:
    tensors, tangents = case.tensors(), case.tensors(seed=1)
    exact = torch.func.jvp(
        case.reference, case.tensors(torch.float64), case.tensors(torch.float64, seed=1)
    )
    for ours, value in zip(torch.func.jvp(case, tensors, tangents), exact):
        assert_close(ours, value)
    with forward_ad.dual_level():
        duals = (forward_ad.make_dual(t, d) for t, d in zip(tensors, tangents))
        output, tangent = forward_ad.unpack_dual(case(*duals))
        assert_close(output, exact[0])
        assert_close(tangent, exact[1])


@all_operators
def test_forward_over_reverse(case: Operator) -> None:
    """A Hessian-vector product: tangents through the gradient, both ways of asking for it."""

    def product(operator: Callable[..., Tensor], dtype: torch.dtype) -> Tensor:
        first, *rest = case.tensors(dtype)
        gradient = torch.func.grad(lambda x: operator(x, *rest).pow(3).sum())
        return torch.func.jvp(gradient, (first,), (case.tensors(dtype, seed=1)[0],))[1]

    exact = product(case.reference, torch.float64)
    assert_close(product(case, torch.float32), exact)
    first, *rest = case.tensors()
    first.requires_grad_()
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(first, case.tensors(seed=1)[0])
        (gradient,) = torch.autograd.grad(case(dual, *rest).pow(3).sum(), first)
        assert_close(forward_ad.unpack_dual(gradient).tangent, exact)


@all_operators
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_is_right(case: Operator) -> None:
    many = [torch.stack(t) for t in zip(*(case.tensors(seed=seed) for seed in range(3)))]
    expected = torch.stack([case(*tensors) for tensors in zip(*many)])
    assert torch.equal(torch.func.vmap(case)(*many), expected)
    shared = torch.func.vmap(case, in_dims=(0, *(None for _ in many[1:])))
    expected = torch.stack([case(x, *(t[0] for t in many[1:])) for x in many[0]])
    assert torch.equal(shared(many[0], *(t[0] for t in many[1:])), expected)

    gradient = torch.func.grad(lambda *tensors: case.reference(*tensors).square().sum())
    expected = torch.stack([gradient(*(t.double() for t in tensors)) for tensors in zip(*many)])
    ours = torch.func.grad(lambda *tensors: case(*tensors).square().sum())
    assert_close(torch.func.vmap(ours)(*many), expected)


@all_operators
def test_first_derivatives_stay_native(case: Operator) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function.name())
            return function(*args, **(kwargs or {}))

    tensors = tuple(tensor.requires_grad_() for tensor in case.tensors())
    with Recorder():
        case(*tensors).sum().backward()
    ours = [name for name in seen if name.startswith("evolute::")]
    assert ours == [
        f"evolute::{case.operator.__name__}",
        f"evolute::{case.operator.__name__}_backward",
    ]


def test_what_does_not_fit_is_refused_in_forward_mode_too() -> None:
    x, kernels = torch.zeros(1, 4, 4, 4), torch.zeros(1, 9, 4, 5)
    with pytest.raises(ValueError, match="expected"):
        torch.func.jvp(lambda x: involution(x, kernels, 3), (x,), (x,))
    experts, weights = torch.zeros(2, 4, 3, 3, 3), torch.zeros(1, 2)
    with pytest.raises(ValueError, match="do not fit"):
        torch.func.jvp(lambda x: expert_convolution(x, experts, weights, 1, 1), (x,), (x,))
