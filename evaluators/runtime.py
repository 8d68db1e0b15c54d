"""What a runtime is: a network as a program that is called without arguments and runs once.

The same device ranks networks differently under each runtime, so it is part of every latency's
fingerprint. A new one is a file that calls `register_runtime`, in `evaluators/runtimes/` or named
under ``plugins:``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from configs.latency import LatencySettings
from configs.registry import Registry

Program = Callable[[], object]


@dataclass(frozen=True)
class Runtime:
    """A way to execute a network.

    Attributes:
        prepare: Turns an eval-mode module and an example (B, C, H, W), both on their device, dtype
            and memory format, into a program. Compilation and export happen here, not at the first
            call. PyTorch's number of threads is set by the caller.
        version: The version of the package that executes the network; checks that it is installed.
        synchronous: Whether the program returns when it is done. On CUDA the others only enqueue
            work on PyTorch's stream, and are timed by events.
    """

    prepare: Callable[[nn.Module, torch.Tensor, LatencySettings], Program]
    version: Callable[[], str]
    synchronous: bool


RUNTIMES: Registry[Runtime] = Registry("runtime")


def register_runtime(
    name: str, *, version: Callable[[], str], synchronous: bool
) -> Callable[[Callable[..., Program]], Callable[..., Program]]:
    """Return a decorator that makes a function ``prepare`` of a `Runtime` available under a name.

    Raises:
        UserError: Another runtime has that name already.
    """

    def register(prepare: Callable[..., Program]) -> Callable[..., Program]:
        RUNTIMES.register(name)(Runtime(prepare, version, synchronous))
        return prepare

    return register


def prepare(model: nn.Module, example: torch.Tensor, settings: LatencySettings) -> Program:
    """Return ``model`` on the fixed input ``example`` (B, C, H, W), ready to be called and timed.

    The caller's model is not changed: a copy is put into eval mode, re-parameterised where its
    modules offer it (timm's ``reparameterize()``), and moved to the example's device and dtype.

    Raises:
        UserError: The runtime does not exist, a package or compiler is missing, or the runtime
            does not take the dtype.
    """
    runtime = RUNTIMES[settings.runtime]
    model = deployed(model).to(example.device, example.dtype)
    if settings.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        example = example.contiguous(memory_format=torch.channels_last)
    return runtime.prepare(model, example, settings)


def runtime_version(name: str) -> str:
    """Return the version of the package that executes the network.

    Raises:
        UserError: The runtime does not exist, or a package it needs is missing.
    """
    return RUNTIMES[name].version()


def deployed(model: nn.Module) -> nn.Module:
    """Return a copy of the network as it is shipped: eval mode, training-time branches fused."""
    model = copy.deepcopy(model).eval()
    if any(hasattr(module, "reparameterize") for module in model.modules()):
        from timm.utils.model import reparameterize_model

        model = reparameterize_model(model, inplace=True)
    return model.requires_grad_(False)


def as_array(output: object) -> np.ndarray | None:
    """Return what a program has returned as an array in float32; None where it is no one tensor."""
    if hasattr(output, "copy_outputs_to_cpu"):  # ONNX Runtime's
        output = output.copy_outputs_to_cpu()
    if isinstance(output, (list, tuple)) and len(output) == 1:
        output = output[0]
    if isinstance(output, torch.Tensor):
        return output.float().cpu().numpy().copy()
    return np.array(output, dtype=np.float32) if isinstance(output, np.ndarray) else None
