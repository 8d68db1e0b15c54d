"""Scores of a network that was never trained: one pass of 32 images, in the time of a batch.

They order architectures better than counting does (docs/search.md), so they serve as objectives of
a quick search and as features of a surrogate. Weights that a network may have are not looked at: a
copy is drawn anew, always from the same seed, and its norms use the batch's own statistics.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from configs.errors import UserError

IMAGES = 32  # of a batch, as in the paper's smaller setting; the kernel is (IMAGES, IMAGES)
SEED = 0

_ATEN = torch.ops.aten
ACTIVATIONS = {
    _ATEN.relu, _ATEN.relu_, _ATEN.hardtanh, _ATEN.hardtanh_, _ATEN.leaky_relu, _ATEN.leaky_relu_,
    _ATEN.elu, _ATEN.elu_, _ATEN.gelu, _ATEN.silu, _ATEN.silu_, _ATEN.hardswish, _ATEN.hardswish_,
}  # fmt: skip


def naswot(network: nn.Module, images: Tensor) -> float:
    """Return the log-determinant of the activation kernel (https://arxiv.org/abs/2006.04647).

    The code of an image says which inputs of all activations are above zero. The kernel holds at
    how many places the codes of two images agree; its determinant is large where the untrained
    network tells the images apart. Activations may be modules or functions. The network is not
    changed.

    Args:
        images: (B, C, H, W); only values of the same images can be compared.

    Returns:
        A number without unit, higher for better networks; -inf where two images have one code.

    Raises:
        UserError: The network has no ReLU-like activation.
    """
    kernel = _ActivationKernel(images)
    with torch.random.fork_rng(devices=_devices(images)), torch.no_grad():
        untrained = _untrained(network)
        with kernel:
            untrained(images)
    if not kernel.found:
        raise UserError("naswot: the network has no ReLU-like activation to read codes from")
    return float(torch.linalg.slogdet(kernel.agreements)[1])


def trainability(network: nn.Module, images: Tensor) -> float:
    """Return AZ-NAS's trainability (https://arxiv.org/abs/2403.19232, section 3.2).

    A block keeps signals alive when it neither grows nor shrinks gradients. Random signs at its
    output are carried back to its input; s is the largest singular value of the matrix of mean
    products of the two over images and places, and the block's score 2 - s - 1/s, which is 0 at
    s = 1 and negative elsewhere. The network is not changed.

    Args:
        network: Has a ``stem`` and ``stages`` of blocks, as every `Network`; blocks that are the
            identity are left out.
        images: (B, C, H, W); only values of the same images can be compared.

    Returns:
        The mean over the blocks, at most 0.

    Raises:
        UserError: The network has no such parts, or no block.
    """
    if not {"stem", "stages"} <= {name for name, _ in network.named_children()}:
        raise UserError("trainability: the network has no `stem` and `stages`; use naswot")
    scores = []
    with torch.random.fork_rng(devices=_devices(images)):
        untrained = _untrained(network)
        with torch.no_grad():
            features = untrained.stem(images)
        for block in (block for stage in untrained.stages for block in stage):
            if not isinstance(block, nn.Identity):
                features = features.detach().requires_grad_()
                out = block(features)
                signs = torch.randint(0, 2, out.shape, device=out.device).to(out.dtype) * 2 - 1
                (gradient,) = torch.autograd.grad(out, features, signs)
                scores.append(_block_score(gradient, signs))
                features = out
    if not scores:
        raise UserError("trainability: the network has no block to score")
    return sum(scores) / len(scores)


def _block_score(gradient: Tensor, signs: Tensor) -> float:
    """Score (B, C, H, W) gradients of a block's input for signs (B, C', H', W') at its output."""
    height, width = signs.shape[2:]
    stride = -(-gradient.shape[2] // height)
    missing = stride * height - gradient.shape[2], stride * width - gradient.shape[3]
    if stride > 1:  # the pixels behind one output pixel become channels
        gradient = F.pixel_unshuffle(F.pad(gradient, (0, missing[1], 0, missing[0])), stride)
    products = torch.einsum("bihw,bohw->io", gradient, signs) / (len(signs) * height * width)
    largest = float(torch.linalg.matrix_norm(products, 2))
    return 2 - largest - 1 / (largest + 1e-6)


def _devices(images: Tensor) -> list[torch.device]:
    """Devices, besides the CPU, whose random numbers are drawn."""
    return [images.device] if images.device.type == "cuda" else []


@torch.no_grad()
def _untrained(network: nn.Module) -> Any:
    """Return a copy with weights drawn from the fixed seed, in training mode.

    Kernels and matrices by He (fan-in), whatever a network begins its own training with: a block
    that starts as its shortcut would hide its operator. Scales are 1, biases 0.
    """
    torch.manual_seed(SEED)
    untrained = copy.deepcopy(network).requires_grad_(False).train()
    for name, parameter in untrained.named_parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter, mode="fan_in", nonlinearity="relu")
        else:
            nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
    return untrained


class _ActivationKernel(TorchDispatchMode):
    """Adds up, over all activations that run, at how many places two images' codes agree.

    With codes c and n places an activation adds n - |c_i - c_j|^2 = n - |c_i| - |c_j| + 2 c_i c_j.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        shape = len(images), len(images)
        self.agreements = torch.zeros(shape, dtype=torch.float64, device=images.device)
        self.found = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in ACTIVATIONS:
            self.found = True
            codes = (args[0] > 0).flatten(1).float()  # sums below 2^24 are exact in float32
            ones = codes.sum(1)
            self.agreements += codes.shape[1] - ones[:, None] - ones + 2 * codes @ codes.T
        return func(*args, **(kwargs or {}))
