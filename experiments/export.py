"""Export to ONNX, checked against PyTorch."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from evaluators import deployed

TOLERANCE = 1e-3  # largest difference of logits, relative to the largest logit


@dataclass(frozen=True)
class Export:
    """What was written. `dynamic_batch` is False where only the given batch size works."""

    path: Path | None
    dynamic_batch: bool = False
    difference: float = 0.0
    message: str = ""


def export_onnx(network: nn.Module, shape: tuple[int, int, int], path: Path) -> Export:
    """Writes ``model.onnx`` and compares ONNX Runtime with PyTorch at batch 1 and 3.

    The batch is dynamic where the operators allow it, else 1. Nothing is written when the optional
    packages are missing or the outputs differ by more than 1e-3 of the largest logit; the message
    says so.

    Args:
        network: Not changed; training forms are fused in a copy.
        shape: (C, H, W) of an image.
    """
    missing = [m for m in ("onnx", "onnxscript", "onnxruntime") if not importlib.util.find_spec(m)]
    if missing:
        return Export(
            None, message=f'no ONNX: {", ".join(missing)} missing; pip install "evolute[export]"'
        )
    network = deployed(network).cpu().float().to(memory_format=torch.contiguous_format)
    partial = path.with_suffix(".partial.onnx")
    failures = []
    try:
        for batches in ((1, 3), (1,)):
            dynamic = len(batches) > 1
            try:
                _write(network, shape, partial, dynamic)
                difference = max(_difference(network, partial, b, shape) for b in batches)
            except Exception as error:  # exporter and runtime raise many kinds
                failures.append(f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")
                continue
            if difference > TOLERANCE:
                failures.append(f"outputs differ by {difference:.2g} of the largest logit")
                continue
            os.replace(partial, path)
            message = "" if dynamic else f"ONNX for batch 1 only: {failures[0]}"
            return Export(path, dynamic, difference, message)
    finally:
        partial.unlink(missing_ok=True)
    return Export(None, message="no ONNX: " + "; ".join(failures))


def _write(network: nn.Module, shape: tuple[int, int, int], path: Path, dynamic: bool) -> None:
    # two images in the example: an exporter takes a size of one for a constant
    images = torch.zeros(2 if dynamic else 1, *shape)
    with _quiet():
        torch.onnx.export(
            network,
            (images,),
            path,
            dynamo=True,
            external_data=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},) if dynamic else None,
            verbose=False,
        )


@torch.no_grad()
def _difference(network: nn.Module, path: Path, batch: int, shape: tuple[int, int, int]) -> float:
    import onnxruntime

    images = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": images.numpy()})
    expected = network(images).numpy()
    if logits.shape != expected.shape:
        raise ValueError(f"the output has shape {logits.shape} instead of {expected.shape}")
    return float(np.abs(logits - expected).max() / max(np.abs(expected).max(), 1e-6))


@contextlib.contextmanager
def _quiet():
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
