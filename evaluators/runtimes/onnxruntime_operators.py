"""Runtime ``onnxruntime_operators``: ONNX Runtime with our operators as nodes, on a CPU.

ONNX Runtime's wheel has no headers, so they must come from elsewhere: `headers` says where they
are looked for.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

import torch
from torch import nn

from configs.errors import UserError
from configs.latency import LatencySettings
from evaluators.extension import load_extension
from evaluators.runtime import Program, register_runtime
from evaluators.runtimes import onnxruntime
from search_space.kernels.compilation import integers

VARIABLE, HEADER = "ONNXRUNTIME_INCLUDE", "onnxruntime_cxx_api.h"
SYSTEM = (Path("/usr/include"), Path("/usr/local/include"))
WITHIN = ("", "onnxruntime", "onnxruntime/core/session", "core/session")


def headers() -> Path | None:
    """Return the folder of the headers of ONNX Runtime's C and C++ API; None where it is nowhere.

    Looked into are ``$ONNXRUNTIME_INCLUDE``, then ``/usr/include`` (Debian's
    ``libonnxruntime-dev``) and ``/usr/local/include``.

    Raises:
        UserError: The variable names a folder that has none.
    """
    named = os.environ.get(VARIABLE)
    for root in [Path(named)] if named else SYSTEM:
        for folder in (root / within for within in WITHIN):
            if (folder / HEADER).exists():
                return folder
    if named:
        raise UserError(f"{VARIABLE}: there is no {HEADER} in {named!r}")
    return None


def onnxruntime_extension() -> str | None:
    """Return the library of our operators, for ``SessionOptions.register_custom_ops_library``.

    It is compiled at first use. None where the headers are missing (`headers`), or, with a warning,
    where it can't be compiled.

    Raises:
        UserError: ``$ONNXRUNTIME_INCLUDE`` names a folder without them.
    """
    own = _found()
    return None if own is None else own._name


def _found() -> ctypes.CDLL | None:
    include = headers()
    return None if include is None else _library(include)


@functools.cache
def _library(include: Path) -> ctypes.CDLL | None:
    source = Path(__file__).with_name("onnxruntime_extension.cpp")
    return load_extension(source, "ONNX Runtime", [f"-I{include}"])


def _version() -> str:
    version = onnxruntime.installed_version()
    if onnxruntime_extension() is None:
        raise UserError(
            f"runtime: onnxruntime_operators needs a C++ compiler and {HEADER}; set {VARIABLE} to "
            "the folder that has it, or install the system's package (libonnxruntime-dev)"
        )
    return version


@register_runtime("onnxruntime_operators", version=_version, synchronous=True)
def prepare(model: nn.Module, example: torch.Tensor, settings: LatencySettings) -> Program:
    """Export a network with our operators as nodes, and return it as `open_program` does."""
    _version()
    _check(example)
    program = onnxruntime.to_onnx(model, example, any_batch=False, own_nodes=True)
    return open_program(program.SerializeToString(), example, settings)


def open_program(content: bytes, example: torch.Tensor, settings: LatencySettings) -> Program:
    """Do as `onnxruntime.open_program` with a program in which our operators are nodes.

    Raises:
        UserError: Something is missing, or the device is no CPU, or the type not float32.
    """
    _version()
    _check(example)
    own = _found()
    assert own is not None  # or there would be no version
    own.evolute_set_threads(integers(settings.threads))  # of this process
    return onnxruntime.open_program(content, example, settings, library=own._name)


def _check(example: torch.Tensor) -> None:
    if example.device.type != "cpu" or example.dtype is not torch.float32:
        about = f"{example.device.type} and {str(example.dtype).removeprefix('torch.')}"
        raise UserError(f"runtime: onnxruntime_operators is for CPUs and float32, not for {about}")
