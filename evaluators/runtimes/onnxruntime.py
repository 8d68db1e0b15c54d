"""Runtimes ``onnxruntime`` and ``onnxruntime_dynamic``: exported to ONNX, run by ONNX Runtime.

The first is exported for the batch that is timed, the second for any. They are different programs:
where the number of images is not known, an operator that mixes kernels for each image must apply
all of its kernels. `experiments.programs` ships what is timed here: both use `to_onnx`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from configs.errors import UserError
from configs.latency import LatencySettings
from evaluators.onnx_parts import export_in_parts
from evaluators.runtime import Program, register_runtime
from search_space.kernels.own_nodes import kept_as_node
from search_space.network import Network

if TYPE_CHECKING:
    import onnx

FLOATS = (1, 10, 11)  # ONNX's numbers of float32, float16 and float64: weights, not shapes


def installed_version() -> str:
    """Return the version of ONNX Runtime; refuse where one of the packages is missing."""
    _require_packages()
    import onnxruntime

    return str(onnxruntime.__version__)


def _require_packages() -> None:
    missing = [
        name
        for name in ("onnx", "onnxscript", "onnxruntime")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise UserError(
            f"runtime: onnxruntime needs the missing package(s) {', '.join(missing)}; "
            'install them with pip install "evolute[export]"'
        )


def to_onnx(
    model: nn.Module, example: torch.Tensor, any_batch: bool, own_nodes: bool = False
) -> onnx.ModelProto:
    """Export a network for the batch of ``example`` (B, C, H, W), or for any number of images.

    Input and output are called ``images`` and ``logits``. ONNX knows no memory format: the program
    is that of contiguous weights. A network of ours, for a fixed batch, is put together from parts
    (`export_in_parts`), of which this process may have exported some before.

    Args:
        model: In eval mode; its memory format is changed.
        own_nodes: Whether an involution, and a convolution with each image's own kernels, is one
            node of our domain, which only runtimes with an extension can run, instead of standard
            operators.
    """
    if own_nodes:
        with kept_as_node():
            return _to_onnx(model, example, any_batch, "own nodes ")
    return _to_onnx(model, example, any_batch)


def _to_onnx(
    model: nn.Module, example: torch.Tensor, any_batch: bool, form: str = ""
) -> onnx.ModelProto:
    model = model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    images = example.new_zeros(example.shape)
    if any_batch:
        several = example.new_zeros(2, *example.shape[1:])  # 1 would become a constant
        shapes = ({0: torch.export.Dim("batch", min=1)},)
        return _export(model, (several,), ["images"], ["logits"], shapes)
    if isinstance(model, Network):
        return export_in_parts(model.parts, images, _export, form)
    return _export(model, (images,), ["images"], ["logits"])


def _export(
    model: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic_shapes: tuple[dict[int, torch.export.Dim], ...] | None = None,
) -> onnx.ModelProto:
    with _quiet():
        program = torch.onnx.export(
            model,
            inputs,
            dynamo=True,
            input_names=input_names,
            output_names=output_names,
            dynamic_shapes=dynamic_shapes,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def prepare(
    model: nn.Module, example: torch.Tensor, settings: LatencySettings, any_batch: bool
) -> Program:
    """Export a network and return it as `open_program` does; see there for the errors."""
    _check_dtype(example.dtype)  # before the export, which takes seconds
    content = to_onnx(model, example, any_batch).SerializeToString()
    return open_program(content, example, settings)


def open_program(
    content: bytes, example: torch.Tensor, settings: LatencySettings, library: str | None = None
) -> Program:
    """Return an ONNX Runtime session with input and output bound on the example's device.

    Args:
        content: An ONNX file with one input, such as `to_onnx` makes.
        library: With operators that the file has and ONNX Runtime lacks.

    Raises:
        UserError: A package is missing, or the runtime takes neither the dtype nor the device.
    """
    _check_dtype(example.dtype)
    import onnxruntime

    provider = "CUDAExecutionProvider" if example.device.type == "cuda" else "CPUExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise UserError(
            f"device: this onnxruntime has no {provider}; install onnxruntime-gpu for CUDA"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.log_severity_level = 3  # errors only
    # Idle worker threads would go on spinning and disturb the reference network's blocks.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if library is not None:
        options.register_custom_ops_library(library)
    session = onnxruntime.InferenceSession(content, options, providers=[provider])
    # Input and output stay on the device: copying them is not the network's time.
    binding = session.io_binding()
    index = example.device.index or 0
    values = onnxruntime.OrtValue.ortvalue_from_numpy(
        example.cpu().numpy(), example.device.type, index
    )
    binding.bind_ortvalue_input(session.get_inputs()[0].name, values)
    for output in session.get_outputs():
        binding.bind_output(output.name, example.device.type, index)

    def run() -> object:
        session.run_with_iobinding(binding)
        return binding  # it has the outputs

    return run


def describe_program(file: Path) -> tuple[int, tuple[int | None, ...]]:
    """Return the parameters of an ONNX program and the shape of its input; None for any number.

    Raises:
        UserError: It is no ONNX program, or one of other inputs than images.
    """
    _require_packages()
    import onnx

    try:
        graph = onnx.load(file, load_external_data=False).graph
    except FileNotFoundError:
        raise UserError(f"{str(file)!r}: there is no such file") from None
    except Exception as error:  # protobuf's own
        raise UserError(f"{file}: it is no ONNX program ({type(error).__name__})") from None
    weights = {weight.name for weight in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if not inputs:
        raise UserError(f"{file}: it is no ONNX program of images; it has no input")
    dimensions = inputs[0].type.tensor_type.shape.dim
    shape = tuple(size.dim_value or None for size in dimensions)
    if len(inputs) != 1 or len(shape) != 4 or None in shape[1:]:
        raise UserError(f"{file}: its input should be images, (B, C, H, W), of one size")
    numbers = [math.prod(w.dims) for w in graph.initializer if w.data_type in FLOATS]
    return sum(numbers), shape


def _check_dtype(dtype: torch.dtype) -> None:
    _require_packages()
    if dtype not in (torch.float32, torch.float16):
        name = str(dtype).removeprefix("torch.")
        raise UserError(f"dtype: {name} cannot be fed to onnxruntime; use float32 or float16")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports its progress and its internals; people asked for neither."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


for _name, _any_batch in (("onnxruntime", False), ("onnxruntime_dynamic", True)):
    register_runtime(_name, version=installed_version, synchronous=True)(
        partial(prepare, any_batch=_any_batch)
    )
