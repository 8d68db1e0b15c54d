"""Runtime ``onnxruntime``: the network exported to ONNX and run by ONNX Runtime."""

from __future__ import annotations

import importlib.util

import torch
from torch import nn

from configs.errors import UserError
from configs.latency import LatencySettings
from evaluators.runtime import Program, register_runtime


def _version() -> str:
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


@register_runtime("onnxruntime", version=_version, synchronous=True)
def prepare(model: nn.Module, example: torch.Tensor, settings: LatencySettings) -> Program:
    """Return an ONNX Runtime session with input and output bound on the device.

    Raises:
        UserError: A package is missing, or the runtime takes neither the dtype nor the device.
    """
    _require_packages()
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
    options.intra_op_num_threads = settings.threads
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
