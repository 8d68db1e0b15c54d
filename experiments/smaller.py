"""Programs for OpenVINO in int8 or bfloat16: written, and what they lose and gain measured.

Accuracy is read off the validation images and latency in turns with the reference network, both
beside the float32 program. Post-training quantisation is NNCF's, calibrated on training images of
the folder's own configuration, as they are in evaluation; the test images are never touched.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import logging
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from configs import Config
from configs.atomic import write_atomically
from configs.errors import TooNoisy, UserError
from configs.latency import LatencySettings
from evaluators.latency import Latency, measure_program
from evaluators.runtimes import openvino
from experiments.data.splits import Splits, load_splits
from experiments.programs import Export, export_onnx
from experiments.settings import load_config
from experiments.workspace import Workspace

FILES = {"bfloat16": "model-openvino-bfloat16.onnx", "int8": "model-openvino-int8.xml"}
HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}  # what is not int8 is float32
QUANTISABLE = ("Convolution", "GroupConvolution", "MatMul")
CARRIERS = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "MaxPool")  # keep a quantised input


@torch.no_grad()
def export_smaller(
    folder: Path,
    network: nn.Module,
    shape: tuple[int, int, int],
    path: Path,
    batch: int,
    dtype: str,
    metadata: dict[str, str],
) -> Export:
    """Write a program in a smaller type, and measure it beside the float32 one.

    Args:
        folder: Of a retrained network: its ``config.yaml`` says where the images are.
        path: An ONNX file for ``bfloat16``, in which OpenVINO only computes; for ``int8`` the
            ``.xml`` of a model of OpenVINO's, whose ``.bin`` is beside it.
        batch: Images of a forward pass.

    Returns:
        What was written, with `details`: ``validation_accuracy`` and ``float32_accuracy`` (%) of
        ``images``, ``latency_ms`` and ``float32_latency_ms`` (None on a machine that is too busy),
        ``computed_in`` (the type in which this processor computes what is not int8), ``in_float``
        (nodes that have a form in int8 or are ours, and stay in float).

    Raises:
        UserError: A package is missing, or the configuration or its images.
    """
    _require(dtype)
    if dtype == "int8" and path.suffix != ".xml":
        raise UserError(f"--out: {path} is not possible; int8 is a model of OpenVINO's, FILE.xml")
    config, splits = _images_of(folder)
    with tempfile.TemporaryDirectory(prefix="evolute-smaller-") as temporary:
        plain = Path(temporary) / "model.onnx"
        full = export_onnx(network, shape, plain, batch, metadata, runtime="openvino")
        if full.path is None:
            return full
        program, in_float = plain, []
        if dtype == "int8":
            program = Path(temporary) / "model.xml"
            try:
                calibration = (images for images, _ in splits.calibration)
                in_float = quantise(plain, calibration, batch, program)
            except UserError:
                raise
            except Exception as error:  # NNCF raises many kinds
                reason = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
                return Export(None, message=f"no {path.name}: {reason}")
        found, computed = _answers(program, dtype, splits, batch)
        expected, _ = _answers(plain, "float32", splits, batch)
        if dtype == "int8":
            write_atomically(path.with_suffix(".bin"), program.with_suffix(".bin").read_bytes())
        write_atomically(path, program.read_bytes())
        settings = dataclasses.replace(
            config.latency, runtime="openvino", batch=batch, dtype="float32"
        )
        latency, full_latency = (
            _latency(file, kind, shape, settings)
            for file, kind in ((program, dtype), (plain, "float32"))
        )
    difference = np.abs(found.logits - expected.logits).max() / np.abs(expected.logits).max()
    details: dict[str, Any] = {
        "images": len(found.logits),
        "validation_accuracy": found.accuracy,
        "float32_accuracy": expected.accuracy,
        "latency_ms": latency and latency.median_ms,
        "float32_latency_ms": full_latency and full_latency.median_ms,
        "computed_in": computed,
        "in_float": in_float,
        "fingerprint": latency and latency.fingerprint,
    }
    return Export(path, float(difference), details=details)


def summary(dtype: str, details: dict[str, Any]) -> list[str]:
    """Return what was measured as lines for people."""
    accuracy, full = details["validation_accuracy"], details["float32_accuracy"]
    lines = [
        f"accuracy on {details['images']} validation images: {accuracy:.2f} % in {dtype}, "
        f"{full:.2f} % in float32 ({accuracy - full:+.2f})"
    ]
    ours, theirs = details["latency_ms"], details["float32_latency_ms"]
    if ours and theirs:
        lines += [
            f"latency: {ours:.3g} ms in {dtype}, {theirs:.3g} ms in float32 ({ours / theirs:.2f})"
        ]
    else:
        lines += ["latency: not measured, this machine is too busy"]
    if dtype == "bfloat16" and details["computed_in"] != "bfloat16":
        lines += [f"this processor has no bfloat16: it computes in {details['computed_in']}"]
    if names := details["in_float"]:
        lines += [f"in float32 as before: {', '.join(names)}"]
    return lines


def quantise(program: Path, batches: Iterable[Tensor], batch: int, out: Path) -> list[str]:
    """Quantise an ONNX program by NNCF, write it for OpenVINO, and name what stays in float.

    Args:
        batches: Images (B, C, H, W) to calibrate on; those that do not fill a batch are left out.
        batch: Images that the program takes.
        out: The ``.xml``.
    """
    os.environ.setdefault("NNCF_CI", "1")  # it would report its use to its makers
    import nncf
    import openvino as runtime

    images = torch.cat(list(batches)).contiguous().numpy()
    whole = [images[i : i + batch] for i in range(0, len(images) - batch + 1, batch)]
    if not whole:
        raise UserError(
            f"--batch: {batch} is not possible; there are {len(images)} images to calibrate on "
            "(evaluate.calibration_images)"
        )
    core = openvino.core_with_extension(threads=1)
    logging.getLogger("nncf").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):  # its bars
        model = nncf.quantize(
            core.read_model(program), nncf.Dataset(whole), subset_size=len(whole),
            preset=nncf.QuantizationPreset.MIXED,
        )  # fmt: skip
    runtime.save_model(model, out, compress_to_fp16=False)
    return [f"{node.get_type_name()} ({node.get_friendly_name()})" for node in _in_float(model)]


def _in_float(model: Any) -> list[Any]:
    """Return the nodes that are ours, and those that could be in int8 and are not."""

    def quantised(node: Any) -> bool:
        source = node.input_value(0).get_node()
        while source.get_type_name() in CARRIERS:
            source = source.input_value(0).get_node()
        return source.get_type_name() == "FakeQuantize"

    return [
        node
        for node in model.get_ordered_ops()
        if node.get_type_info().version_id == "evolute"
        or (node.get_type_name() in QUANTISABLE and not quantised(node))
    ]


def _require(dtype: str) -> None:
    packages = ("onnx", "onnxscript", "openvino", *(("nncf",) if dtype == "int8" else ()))
    if missing := [name for name in packages if not importlib.util.find_spec(name)]:
        extra = "quantise" if dtype == "int8" else "openvino"
        raise UserError(
            f"--dtype: {dtype} needs the missing package(s) {', '.join(missing)}; "
            f'install them with pip install "evolute[{extra}]"'
        )


def _images_of(folder: Path) -> tuple[Config, Splits]:
    """Return the configuration of a network's folder, and its images but those of the test."""
    file = folder / "config.yaml"
    if not file.exists():
        raise UserError(f"{file}: not there; it says which images to calibrate and to compare on")
    config, workspace = load_config(file), Workspace(folder.absolute().parents[1])
    kept = [each if each.exists() else None for each in (workspace.statistics, workspace.split)]
    splits = load_splits(
        config, "cpu", config.retrain.batch_size, statistics=kept[0], split=kept[1]
    )
    return config, splits


@dataclasses.dataclass(frozen=True)
class _Answers:
    logits: np.ndarray  # (images, classes)
    accuracy: float  # %


def _answers(program: Path, dtype: str, splits: Splits, batch: int) -> tuple[_Answers, str]:
    """Run a program on all validation images; also say in which type OpenVINO computes."""
    compiled = openvino.compile_program(program, threads=1, precision=HINTS[dtype])
    images, labels = (torch.cat(each).numpy() for each in zip(*splits.validation))
    images = np.ascontiguousarray(images)
    logits = []
    for start in range(0, len(images), batch):
        chosen = images[start : start + batch]
        filled = np.concatenate([chosen, np.zeros_like(images[: batch - len(chosen)])])
        logits.append(compiled(filled)[0][: len(chosen)].copy())
    found = np.concatenate(logits)
    computed = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    accuracy = 100 * float((found.argmax(1) == labels).mean())
    return _Answers(found, accuracy), {"f32": "float32", "bf16": "bfloat16"}.get(computed, computed)


def _latency(
    program: Path, dtype: str, shape: tuple[int, int, int], settings: LatencySettings
) -> Latency | None:
    def make(example: Tensor) -> openvino.Program:
        return openvino.open_program(program, example, settings, HINTS[dtype])

    try:
        return measure_program(make, shape, settings)
    except TooNoisy:
        return None
