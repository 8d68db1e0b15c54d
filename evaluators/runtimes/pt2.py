"""Runtime ``pt2``: compiled ahead of time by AOTInductor into a package, as it is shipped."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from configs.latency import LatencySettings
from evaluators.runtime import Program, register_runtime
from evaluators.runtimes.compile import require_compiler


@register_runtime("pt2", version=lambda: torch.__version__, synchronous=False)
def prepare(model: nn.Module, example: torch.Tensor, settings: LatencySettings) -> Program:
    """Return the package of a network, loaded; it runs without the network's code.

    Raises:
        UserError: There is no C++ compiler.
    """
    require_compiler("pt2")
    with tempfile.TemporaryDirectory(prefix="evolute-pt2-") as folder:
        package = Path(folder) / "model.pt2"
        compile_package(model, example, package)
        loaded = torch._inductor.aoti_load_package(str(package))
    return lambda: loaded(example)


def compile_package(
    network: nn.Module,
    images: torch.Tensor,
    path: Path,
    metadata: Mapping[str, str] | None = None,
) -> torch.export.ExportedProgram:
    """Write a package (``.pt2``) of a network in eval mode; return the program that is in it.

    It runs on processors like this one, for images of this shape, type and memory format.

    Args:
        metadata: Kept in the package.
    """
    with torch.inference_mode(False), torch.no_grad():
        program = torch.export.export(network, (images.clone(),))
        torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(path),
            inductor_configs={"aot_inductor.metadata": dict(metadata or {})},
        )
    return program
