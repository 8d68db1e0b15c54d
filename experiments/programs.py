"""What a trained network is shipped with: what it expects of images, and ONNX programs.

A form is a way in which it can be run: ``eager``, or an exported file by its name.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.layers import CondConv2d
from torch import nn

from configs.atomic import write_atomically
from configs.errors import TooNoisy, UserError
from configs.latency import LatencySettings
from evaluators import Latency, deployed
from evaluators.latency import measure_program
from evaluators.runtime import Program, as_array, prepare, runtime_version
from evaluators.runtimes import onnxruntime, onnxruntime_operators, openvino
from evaluators.runtimes.onnxruntime import to_onnx
from evaluators.runtimes.onnxruntime_operators import onnxruntime_extension
from evaluators.runtimes.openvino import openvino_extension
from experiments.console import console
from experiments.data.preprocessing import Preprocessing
from search_space.kernels.expert_conv.onnx import has_node
from search_space.operators.involution import Involution

# Largest difference of logits, relative to the largest logit.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
METADATA = "pretrained_cfg"  # the key in the files of weights and programs, a JSON object
PROGRAMS = {
    "model.onnx": "onnxruntime",
    "model-dynamic.onnx": "onnxruntime_dynamic",
    "model-openvino.onnx": "openvino",
    "model-operators.onnx": "onnxruntime_operators",
}
PACKAGES = {runtime: runtime.partition("_")[0] for runtime in PROGRAMS.values()}
EXTENSIONS = {"openvino": openvino_extension, "onnxruntime_operators": onnxruntime_extension}


def pretrained_cfg(preprocessing: Preprocessing, class_names: list[str]) -> dict[str, Any]:
    """Return what the weights expect in timm's words, as plain values.

    `timm.data.create_transform` makes of them what `experiments.data` does in evaluation.
    """
    return {
        "input_size": [preprocessing.channels, preprocessing.size, preprocessing.size],
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "interpolation": preprocessing.interpolation,
        "crop_pct": preprocessing.crop,
        "crop_mode": "center",
        "num_classes": len(class_names),
        "label_names": list(map(str, class_names)),
    }


def as_metadata(expected: Mapping[str, Any]) -> dict[str, str]:
    """Return what the weights expect as the metadata of a safetensors or an ONNX file."""
    return {METADATA: json.dumps(expected)}


@dataclass(frozen=True)
class Export:
    """What was written; without a path nothing was, and the message says why.

    Attributes:
        difference: Of logits to PyTorch's, the largest, as a share of the largest logit.
        details: What else was measured, as plain values; see `experiments.smaller`.
    """

    path: Path | None
    difference: float = 0.0
    message: str = ""
    details: dict[str, Any] = dataclasses.field(default_factory=dict)


def export_onnx(
    network: nn.Module,
    shape: tuple[int, int, int],
    path: Path,
    batch: int | None = None,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.float32,
    runtime: str = "onnxruntime",
) -> Export:
    """Write an ONNX program and compare the runtime that it is for with PyTorch in float32.

    Nothing is written when the optional packages are missing or the outputs differ by more than
    `TOLERANCE`; the message says so.

    Args:
        network: Not changed; training forms are fused in a copy.
        shape: (C, H, W) of an image.
        batch: Images of a forward pass; None exports for any number, and compares one and three.
        metadata: Kept in the file.
        dtype: Of weights, images and logits: float32 or float16.
        runtime: That it is for. Where one of `EXTENSIONS` has our operators, involutions and the
            like are nodes of our own.
    """
    packages = ("onnx", "onnxscript", PACKAGES[runtime])
    missing = [m for m in packages if not importlib.util.find_spec(m)]
    if missing:
        names = ", ".join(missing)
        return Export(None, message=f'no ONNX: {names} missing; pip install "evolute[export]"')
    network = deployed(network).cpu().float()
    try:
        example = torch.empty(batch or 1, *shape, dtype=dtype)
        typed = copy.deepcopy(network).to(dtype)
        own_nodes = runtime in EXTENSIONS and EXTENSIONS[runtime]() is not None
        program = to_onnx(typed, example, any_batch=batch is None, own_nodes=own_nodes)
        for key, value in (metadata or {}).items():
            program.metadata_props.add(key=key, value=value)
        content = program.SerializeToString()
        batches = (1, 3) if batch is None else (batch,)
        examples = [torch.empty(count, *shape, dtype=dtype) for count in batches]
        difference = max(_difference(network, content, each, runtime) for each in examples)
    except Exception as error:  # exporter and runtime raise many kinds
        reason = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
        return Export(None, message=f"no {path.name}: {reason}")
    if difference > TOLERANCE[dtype]:
        reason = f"outputs differ by {difference:.2g} of the largest logit"
        return Export(None, difference, f"no {path.name}: {reason}")
    write_atomically(path, content)
    return Export(path, difference)


@torch.no_grad()
def _difference(network: nn.Module, content: bytes, example: torch.Tensor, runtime: str) -> float:
    """Compare on images of the example's shape and dtype; the network is in float32."""
    images = torch.randn(example.shape, generator=torch.Generator().manual_seed(0))
    run = open_program(runtime, content, images.to(example.dtype), LatencySettings())
    logits, expected = as_array(run()), network(images).numpy()
    if logits is None or logits.shape != expected.shape:
        shape = "unknown" if logits is None else logits.shape
        raise ValueError(f"the output has shape {shape} instead of {expected.shape}")
    return float(np.abs(logits - expected).max() / max(np.abs(expected).max(), 1e-6))


def open_program(
    runtime: str, content: bytes, images: torch.Tensor, settings: LatencySettings
) -> Program:
    """Return an exported file as a program of its runtime, on images (B, C, H, W)."""
    if runtime == "openvino":
        return openvino.open_typed(content, images, settings)
    if runtime == "onnxruntime_operators":
        return onnxruntime_operators.open_program(content, images, settings)
    return onnxruntime.open_program(content, images, settings)


def export_programs(
    network: nn.Module,
    shape: tuple[int, int, int],
    folder: Path,
    latency: LatencySettings,
    metadata: Mapping[str, str],
) -> dict[str, LatencySettings]:
    """Write ``model.onnx`` for the batch of ``latency``, and ``model-dynamic.onnx`` for any.

    Where the network has an involution, or a convolution with each image's own kernels, and a
    runtime with our operators is here, its file is for the batch of ``latency`` too:
    ``model-openvino.onnx``, ``model-operators.onnx`` for ONNX Runtime. Of other networks they run
    ``model.onnx`` as fast. The program of the runtime that was searched in has the dtype that was
    searched in, any other is in float32. What can't be written is said, and no older file of that
    name is left.

    Returns:
        The forms that there are now, with the settings under which each is timed as it is run.
    """
    forms = {"eager": dataclasses.replace(latency, runtime="eager")}
    for file, runtime in PROGRAMS.items():
        if runtime in EXTENSIONS and not _needs_own_file(network, runtime):
            (folder / file).unlink(missing_ok=True)
            continue
        batch = None if runtime == "onnxruntime_dynamic" else latency.batch
        searched = runtime == latency.runtime
        dtype = latency.dtype if searched and runtime not in EXTENSIONS else "float32"
        precision = getattr(torch, dtype)
        export = export_onnx(network, shape, folder / file, batch, metadata, precision, runtime)
        if export.path is None:
            (folder / file).unlink(missing_ok=True)
            console.print(f"[yellow]{export.message}[/]")
        else:
            kept = latency.dtype if searched else "float32"  # OpenVINO computes in another type
            forms[file] = dataclasses.replace(latency, runtime=runtime, dtype=kept)
    return forms


def _needs_own_file(network: nn.Module, runtime: str) -> bool:
    """Return whether the runtime is here and runs the network faster with our operators."""
    try:
        runtime_version(runtime)
    except UserError as error:
        if os.environ.get(onnxruntime_operators.VARIABLE) and runtime != "openvino":
            console.print(f"[yellow]{error}[/]")  # somebody wants it
        return False
    return any(
        isinstance(module, Involution) or (isinstance(module, CondConv2d) and has_node(module))
        for module in network.modules()
    )


def measure_forms(
    network: nn.Module,
    shape: tuple[int, int, int],
    forms: Mapping[str, LatencySettings],
    folder: Path,
    device: torch.device,
    reference_ms: float | None = None,
) -> dict[str, Latency]:
    """Time a network in several forms; one that can't be timed here is said and left out.

    Args:
        forms: With their settings; forms of equal settings are timed once.
        folder: Where the exported files are: each of them is timed as it was written.
        reference_ms: The unit of latency of a study, for values that compare with its own.
    """
    times: dict[str, Latency] = {}
    for form, settings in forms.items():
        equal = next((known for known in times if forms[known] == settings), None)
        if equal is not None:
            times[form] = times[equal]
            continue

        def make(
            example: torch.Tensor, form: str = form, settings: LatencySettings = settings
        ) -> Program:
            if form in PROGRAMS:
                content = (folder / form).read_bytes()
                return open_program(settings.runtime, content, example, settings)
            return prepare(network, example, settings)

        try:
            times[form] = measure_program(
                make, shape, settings, device=device, reference_ms=reference_ms
            )
        except (TooNoisy, UserError) as error:
            console.print(f"[yellow]Latency of {form} not measured: {error}[/]")
    return times
