"""Runtime ``compile``: ``torch.compile``."""

from __future__ import annotations

import os
import shutil

import torch
from torch import nn

from configs.errors import UserError
from configs.latency import LatencySettings
from evaluators.runtime import Program, register_runtime


@register_runtime("compile", version=lambda: torch.__version__, synchronous=False)
def prepare(model: nn.Module, example: torch.Tensor, settings: LatencySettings) -> Program:
    """Return the compiled module; on CUDA it returns before the device has finished.

    Raises:
        UserError: There is no C++ compiler.
    """
    require_compiler("compile")
    # Compiled code is cached per forward function, not per network: after eight networks of one
    # class torch.compile would give up silently and time the eager code. Start afresh each time.
    torch._dynamo.reset()
    compiled = torch.compile(model, dynamic=False)
    compiled(example)
    return lambda: compiled(example)


def require_compiler(runtime: str) -> None:
    """Check that a runtime can compile.

    Raises:
        UserError: There is no C++ compiler.
    """
    compiler = os.environ.get("CXX", "g++")
    if not any(shutil.which(name) for name in (compiler, "c++", "clang++", "cl")):
        raise UserError(
            f"runtime: {runtime} needs a C++ compiler (g++ or clang++) and none was found; "
            "install one or use runtime: eager"
        )
