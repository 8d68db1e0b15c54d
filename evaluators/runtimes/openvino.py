"""Runtime ``openvino``: exported to ONNX for the batch that is timed, run by OpenVINO on a CPU."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import nn

from configs.errors import UserError
from configs.latency import LatencySettings
from evaluators.extension import load_extension
from evaluators.runtime import Program, register_runtime
from evaluators.runtimes.onnxruntime import to_onnx
from search_space.kernels.compilation import integers

PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


def _version() -> str:
    _require_packages()
    import openvino

    return str(openvino.__version__)


def _require_packages() -> None:
    missing = [
        name
        for name in ("onnx", "onnxscript", "openvino")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise UserError(
            f"runtime: openvino needs the missing package(s) {', '.join(missing)}; "
            'install them with pip install "evolute[export,openvino]"'
        )


@register_runtime("openvino", version=_version, synchronous=True)
def prepare(model: nn.Module, example: torch.Tensor, settings: LatencySettings) -> Program:
    """Export a network in float32 and return it compiled, computing in the example's dtype.

    Raises:
        UserError: A package is missing, or the device is no CPU.
    """
    _require_packages()
    if example.device.type != "cpu":
        raise UserError(f"device: runtime openvino is for CPUs, not for {example.device.type}")
    images, own_nodes = example.float(), openvino_extension() is not None
    program = to_onnx(model.float(), images, any_batch=False, own_nodes=own_nodes)
    return open_typed(program.SerializeToString(), example, settings)


def open_typed(content: bytes, example: torch.Tensor, settings: LatencySettings) -> Program:
    """Do as `open_program`, and compute in the dtype of the example; the file is in float32."""
    return open_program(content, example.float(), settings, PRECISIONS[example.dtype])


def openvino_extension() -> str | None:
    """Return the file of our operators for OpenVINO, for ``openvino.Core().add_extension``.

    It is compiled at first use, like the kernels that it calls. None, with a warning, where it
    can't be: involutions and expert convolutions are then standard graphs.

    Raises:
        UserError: OpenVINO is missing.
    """
    _require_packages()
    own = _library()
    return None if own is None else own._name


@functools.cache
def _library() -> ctypes.CDLL | None:
    import openvino

    package = Path(openvino.__file__).parent
    libraries = [
        *package.glob("libs/libopenvino.so*"),
        *package.glob("libs/libopenvino_onnx_*.so*"),
    ]
    flags = [f"-I{package / 'include'}", *map(str, libraries), f"-Wl,-rpath,{package / 'libs'}"]
    source = Path(__file__).with_name("openvino_extension.cpp")
    return load_extension(source, "OpenVINO", flags)


def open_program(
    content: bytes | Path, example: torch.Tensor, settings: LatencySettings, precision: str = "f32"
) -> Program:
    """Return a program with its input set, compiled for one stream on as many threads as asked.

    Calling it returns the outputs as NumPy arrays, which the next call overwrites.

    Args:
        content: As for `compile_program`, with one input.
        precision: Likewise.

    Raises:
        UserError: The package is missing.
    """
    compiled = compile_program(content, settings.threads, precision)
    import openvino

    request = compiled.create_infer_request()
    pixels = example.contiguous().numpy()
    request.set_input_tensor(openvino.Tensor(pixels))

    def run() -> list[object]:
        request.infer()
        return [request.get_output_tensor(i).data for i in range(len(compiled.outputs))]

    return run


def compile_program(content: bytes | Path, threads: int, precision: str = "f32") -> Any:
    """Return an ``openvino.CompiledModel`` of one stream; calling it runs it.

    Args:
        content: An ONNX file, such as `to_onnx` makes, or a path of one or of an ``.xml``.
        precision: OpenVINO's ``INFERENCE_PRECISION_HINT``; a CPU that lacks it takes a wider one.

    Raises:
        UserError: The package is missing.
    """
    core = core_with_extension(threads)
    return core.compile_model(
        core.read_model(content),
        "CPU",
        {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
            "ENABLE_CPU_PINNING": False,  # others wait for the processor; the lock keeps them off
        },
    )


def core_with_extension(threads: int) -> Any:
    """Return an ``openvino.Core`` that knows our operators, if they can be compiled.

    Args:
        threads: For our operators, in all programs of this process.

    Raises:
        UserError: The package is missing.
    """
    _require_packages()
    import openvino

    core = openvino.Core()
    if (own := _library()) is not None:
        core.add_extension(own._name)
        own.evolute_set_threads(integers(threads))
    return core
