"""Exports a retrained network again: for another batch or type, or as a package of PyTorch's."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from configs.atomic import write_atomically
from configs.errors import UserError
from configs.suggestions import did_you_mean
from evaluators import deployed
from evaluators.runtime import runtime_version
from evaluators.runtimes.pt2 import compile_package
from experiments import smaller
from experiments.program_list import OPERATORS, note_exports, read_exports
from experiments.programs import TOLERANCE, Export, as_metadata, export_onnx
from experiments.reporting.how_to_load import how_to_load, with_section
from experiments.tracking.model_registry import CARD
from search_space import build_network, load_architecture
from search_space.architecture import WEIGHTS, load_pretrained_cfg
from search_space.kernels.torch_library import operators_library
from supernet import load_weights

FORMATS = {
    "onnx": "model.onnx",
    "onnx-operators": "model-operators.onnx",
    "openvino": "model-openvino.onnx",
    "pt2": "model.pt2",
}
RUNTIMES = {"onnx-operators": "onnxruntime_operators", "openvino": "openvino"}
TYPES = {
    "onnx": ("float32", "float16"),
    "onnx-operators": ("float32",),
    "openvino": ("float32", "bfloat16", "int8"),
    "pt2": ("float32", "bfloat16"),
}
ANY = "model-dynamic.onnx"  # for any batch


def export_folder(
    folder: Path,
    form: str,
    *,
    batch: int = 1,
    dtype: str = "float32",
    out: Path | None = None,
    plugins: Sequence[str] = (),
) -> Export:
    """Export the network of a folder, and compare the file with PyTorch in float32.

    Args:
        folder: What `evolute retrain` wrote: ``architecture.yaml`` and the weights.
        form: A key of `FORMATS`.
        batch: Images of a forward pass; 0 for any number, of ``onnx`` only.
        dtype: Of weights and images; see `TYPES`.
        out: The file; default is the format's in the folder. Of one in the folder ``exports.json``
            says what it is, and ``README.md`` how it is loaded.
        plugins: Files that an ``architecture.yaml`` of elsewhere may run.

    Raises:
        UserError: There is no network, the format does not take the batch or type, or what
            ``onnx-operators`` is compiled with is missing.
    """
    if form not in FORMATS:
        raise UserError(f"--format: {form!r} does not exist; {did_you_mean(form, list(FORMATS))}")
    if dtype not in TYPES[form]:
        raise UserError(f"--dtype: {form} takes {' or '.join(TYPES[form])}, not {dtype!r}")
    if batch < 0 or (batch == 0 and form != "onnx"):
        raise UserError(f"--batch: {batch} is none that {form} takes; use 1 or more")
    file = folder / "architecture.yaml"
    if not (folder / WEIGHTS).exists():
        raise UserError(f"{folder}: no trained network there; {WEIGHTS} is missing")
    space, architecture = load_architecture(file, plugins)
    network = build_network(space, architecture).eval()
    load_weights(folder / WEIGHTS, network)
    shape = (space.in_channels, space.input_size, space.input_size)
    path, metadata = out or folder / FORMATS[form], as_metadata(load_pretrained_cfg(file))
    if form == "onnx" and batch == 0:
        path = out or folder / ANY
    if form == "openvino" and dtype != "float32":
        path = out or folder / smaller.FILES[dtype]
        written = smaller.export_smaller(folder, network, shape, path, batch, dtype, metadata)
    elif form == "pt2":
        precision = getattr(torch, dtype)
        written = export_package(network, shape, path, batch, metadata, precision)
    else:
        runtime = RUNTIMES.get(form, "onnxruntime")
        if form == "onnx-operators":
            runtime_version(runtime)  # refuses where something is missing
        precision = getattr(torch, dtype)
        written = export_onnx(network, shape, path, batch or None, metadata, precision, runtime)
    if written.path is not None and path.absolute().parent == folder.absolute():
        about = {"batch": batch, "dtype": dtype, "difference": written.difference}
        note_exports(folder, {path.name: {**about, **written.details}})
        card = folder / CARD
        before = card.read_text(encoding="utf-8") if card.exists() else ""
        section = how_to_load(folder, read_exports(folder))
        write_atomically(card, with_section(before, section))
    return written


@torch.no_grad()
def export_package(
    network: nn.Module,
    shape: tuple[int, int, int],
    path: Path,
    batch: int,
    metadata: Mapping[str, str],
    dtype: torch.dtype = torch.float32,
) -> Export:
    """Write a package of AOTInductor's, compiled for processors like this one.

    ``torch._inductor.aoti_load_package`` runs it from Python, ``examples/run_package.cpp`` from
    C++, without the network's code. What has an involution or expert kernels calls our operators,
    which are written beside it as `OPERATORS`. Nothing is written where its outputs differ from
    PyTorch's in float32 by more than `TOLERANCE`.

    Args:
        network: Not changed; training forms are fused in a copy.
        shape: (C, H, W) of an image.
        batch: Images of a forward pass.
        metadata: Kept in the package.
    """
    network = deployed(network).cpu().float()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, *shape, generator=generator)
    typed = deployed(network).to(dtype)
    with tempfile.TemporaryDirectory(prefix="evolute-export-") as folder:
        try:
            package = Path(folder) / "model.pt2"
            program = compile_package(typed, images.to(dtype), package, metadata)
            logits = torch._inductor.aoti_load_package(str(package))(images.to(dtype)).float()
            own = operators_library() if _calls_ours(program) else None
        except Exception as error:  # exporter, compiler and loader raise many kinds
            reason = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            return Export(None, message=f"no {path.name}: {reason}")
        expected = network(images)
        difference = float((logits - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
        if difference > TOLERANCE[dtype]:
            reason = f"outputs differ by {difference:.2g} of the largest logit"
            return Export(None, difference, f"no {path.name}: {reason}")
        if own is not None:
            write_atomically(path.with_name(OPERATORS), own.read_bytes())
        write_atomically(path, package.read_bytes())
    return Export(path, difference)


def _calls_ours(program: torch.export.ExportedProgram) -> bool:
    return any(str(node.target).startswith("evolute.") for node in program.graph.nodes)
