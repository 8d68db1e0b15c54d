"""A network as a deployed program: something that is called without arguments and runs once.

``eager`` is PyTorch as it is; ``compile`` is ``torch.compile``; ``onnxruntime`` is the network
exported to ONNX. The same device ranks networks differently under each of them, so the runtime
is part of every latency's fingerprint.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import shutil
from collections.abc import Callable

import torch
from torch import nn

from configs.errors import UserError

RUNTIMES = ("eager", "compile", "onnxruntime")
Program = Callable[[], object]


def prepare(
    model: nn.Module,
    example: torch.Tensor,
    runtime: str,
    *,
    threads: int = 1,
    channels_last: bool = False,
) -> Program:
    """``model`` on the fixed input ``example`` (B, C, H, W), ready to be called and timed.

    The caller's model is not changed: a copy is put into eval mode, re-parameterised where its
    modules offer it (timm's ``reparameterize()``), and moved to the example's device and dtype.
    ``threads`` is for onnxruntime; PyTorch's own number is the caller's to set. On CUDA ``eager``
    and ``compile`` return before the device has finished, ``onnxruntime`` after. Compilation and
    export happen here, not at the first call.

    Raises UserError for an unknown runtime, a missing package or compiler, or a dtype that the
    runtime cannot take.
    """
    if runtime not in RUNTIMES:
        raise UserError(f"runtime: {runtime!r} is unknown; choose one of {', '.join(RUNTIMES)}")
    model = deployed(model).to(example.device, example.dtype)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        example = example.contiguous(memory_format=torch.channels_last)
    if runtime == "onnxruntime":
        return _onnxruntime_program(model, example, threads)
    if runtime == "compile":
        return _compiled_program(model, example)
    return lambda: model(example)


def deployed(model: nn.Module) -> nn.Module:
    """A copy of the network as it is shipped: eval mode, training-time branches fused."""
    model = copy.deepcopy(model).eval()
    if any(hasattr(module, "reparameterize") for module in model.modules()):
        from timm.utils.model import reparameterize_model

        model = reparameterize_model(model, inplace=True)
    return model.requires_grad_(False)


def runtime_version(runtime: str) -> str:
    """The version of the package that executes the network."""
    if runtime != "onnxruntime":
        return torch.__version__
    _require_onnxruntime()
    import onnxruntime

    return str(onnxruntime.__version__)


def _compiled_program(model: nn.Module, example: torch.Tensor) -> Program:
    compiler = os.environ.get("CXX", "g++")
    if not any(shutil.which(name) for name in (compiler, "c++", "clang++", "cl")):
        raise UserError(
            "runtime: compile needs a C++ compiler (g++ or clang++) and none was found; "
            "install one or use runtime: eager"
        )
    # Compiled code is cached per forward function, not per network: after eight networks of one
    # class torch.compile would give up silently and time the eager code. Start afresh each time.
    torch._dynamo.reset()
    compiled = torch.compile(model, dynamic=False)
    compiled(example)
    return lambda: compiled(example)


def _onnxruntime_program(model: nn.Module, example: torch.Tensor, threads: int) -> Program:
    _require_onnxruntime()
    import onnxruntime

    if example.dtype not in (torch.float32, torch.float16):
        name = str(example.dtype).removeprefix("torch.")
        raise UserError(f"dtype: {name} cannot be fed to onnxruntime; use float32 or float16")
    provider = "CUDAExecutionProvider" if example.device.type == "cuda" else "CPUExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise UserError(
            f"device: this onnxruntime has no {provider}; install onnxruntime-gpu for CUDA"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    # Idle worker threads would go on spinning and disturb the reference network's blocks.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    exported = torch.onnx.export(model, (example,), dynamo=True, verbose=False)
    assert exported is not None
    session = onnxruntime.InferenceSession(
        exported.model_proto.SerializeToString(), options, providers=[provider]
    )
    # Input and output stay on the device: copying them is not the network's time.
    binding = session.io_binding()
    index = example.device.index or 0
    values = onnxruntime.OrtValue.ortvalue_from_numpy(
        example.cpu().numpy(), example.device.type, index
    )
    binding.bind_ortvalue_input(session.get_inputs()[0].name, values)
    for output in session.get_outputs():
        binding.bind_output(output.name, example.device.type, index)
    return lambda: session.run_with_iobinding(binding)


def _require_onnxruntime() -> None:
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
