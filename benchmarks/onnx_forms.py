"""Which standard ONNX graph of an involution is fastest in ONNX Runtime?

    python benchmarks/onnx_forms.py            # two minutes
    python benchmarks/onnx_forms.py --quick    # a smoke test; writes no record
    python benchmarks/onnx_forms.py --table    # the record

A 7x7 involution with 16 channels a group, its kernels given, in the forms that ONNX can say; timed
in turns with a 3x3 convolution of the same shape, batch 1, one thread. Printed is the median of the
ratios of a turn, and their quartiles. Forms are first compared with shift-and-add in PyTorch. The
record is docs/results/onnx_forms.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from configs.atomic import write_atomically
from evaluators.fingerprint import device_name
from search_space.kernels.involution import onnx, shift

RECORD = Path(__file__).parent.parent / "docs" / "results" / "onnx_forms.json"
SHAPES = ((64, 32), (128, 28), (256, 14))  # channels and side
KERNEL, GROUP = 7, 16


def banded(input: Tensor, weight: Tensor) -> Tensor:
    """Products of 16 or so output columns at a time with banded matrices: what is exported."""
    return onnx.forward(input, weight, KERNEL)


def by_rows(input: Tensor, weight: Tensor) -> Tensor:
    """The sum of K products, each of whole rows with a banded matrix; no patches are copied."""
    height, width = weight.shape[-2:]
    columns, groups = width + KERNEL - 1, weight.shape[1] // KERNEL**2
    kernels = weight.unflatten(1, (groups, KERNEL, KERNEL)).permute(2, 0, 1, 4, 5, 3)
    rows = F.pad(kernels, (0, columns - KERNEL + 1)).flatten(-2)
    bands = rows[..., : width * columns].unflatten(-1, (width, columns))
    padded = F.pad(input, (KERNEL // 2,) * 4).unflatten(1, (groups, -1)).permute(0, 1, 3, 4, 2)
    products = [bands[i] @ padded[:, :, i : i + height] for i in range(KERNEL)]
    return torch.stack(products).sum(0).permute(0, 1, 4, 2, 3).flatten(1, 2)


def one_hot(input: Tensor, weight: Tensor) -> Tensor:
    """Patches by a convolution with one-hot kernels, weighted and summed."""
    batch, channels, height, width = input.shape
    kernels = torch.eye(KERNEL**2).reshape(KERNEL**2, 1, KERNEL, KERNEL)
    single = input.reshape(batch * channels, 1, height, width)
    patches = F.conv2d(single, kernels, padding=KERNEL // 2)
    groups = weight.shape[1] // KERNEL**2
    shape = (batch, groups, channels // groups, KERNEL**2, height, width)
    weighted = patches.reshape(shape) * weight.unflatten(1, (groups, 1, KERNEL**2))
    return weighted.sum(3).flatten(1, 2)


def shifted(input: Tensor, weight: Tensor) -> Tensor:
    """K*K shifted images, each weighted and added."""
    return shift.forward(input, weight, KERNEL, 1, 1)


def einsum(input: Tensor, weight: Tensor) -> Tensor:
    """K*K shifted images in one tensor, and one Einsum."""
    height, width = input.shape[2:]
    groups = weight.shape[1] // KERNEL**2
    padded = F.pad(input, (KERNEL // 2,) * 4).unflatten(1, (groups, -1))
    shifts = [padded[..., i : i + height, j : j + width]
              for i in range(KERNEL) for j in range(KERNEL)]  # fmt: skip
    kernels = weight.unflatten(1, (groups, KERNEL**2))
    return torch.einsum("bgkchw,bgkhw->bgchw", torch.stack(shifts, 2), kernels).flatten(1, 2)


FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "banded products (exported)": banded,
    "banded products, row by row": by_rows,
    "shift and add": shifted,
    "one-hot convolution": one_hot,
    "shifts and Einsum": einsum,
}


class Form(nn.Module):
    """A function of two tensors as a module, for the exporter."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, input: Tensor, weight: Tensor) -> Tensor:
        return self.function(input, weight)


def session(module: nn.Module, arguments: tuple[Tensor, ...]) -> Callable[[], np.ndarray]:
    """Return what runs a module's program on its arguments in ONNX Runtime, on one thread."""
    program = torch.onnx.export(module, arguments, dynamo=True, verbose=False)
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    opened = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), options)
    given = {i.name: a.numpy() for i, a in zip(opened.get_inputs(), arguments)}
    return lambda: opened.run(None, given)[0]


def seconds(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def measure(turns: int) -> dict[str, Any]:
    ratios: dict[str, dict[str, list[float]]] = {name: {} for name in FORMS}
    for channels, side in SHAPES:
        input = torch.randn(1, channels, side, side)
        weight = torch.randn(1, channels // GROUP * KERNEL**2, side, side)
        plain = session(nn.Conv2d(channels, channels, 3, padding=1).eval(), (input,))
        expected = shifted(input, weight).numpy()
        runs = {name: session(Form(function), (input, weight)) for name, function in FORMS.items()}
        for name, run in runs.items():
            np.testing.assert_allclose(run(), expected, rtol=1e-3, atol=1e-3, err_msg=name)
        for _ in range(turns):
            for name, run in runs.items():
                plain()
                ratio = seconds(run) / seconds(plain)
                ratios[name].setdefault(f"{channels} at {side}", []).append(round(ratio, 3))
    return {
        "date": datetime.date.today().isoformat(),
        "device": device_name("cpu"),
        "onnxruntime": onnxruntime.__version__,
        "ratios": ratios,
    }


def table(record: dict[str, Any]) -> Table:
    made = Table(title=f"{record['device']}, {record['date']}")
    made.add_column("involution 7x7 over convolution 3x3")
    for channels, side in SHAPES:
        made.add_column(f"{channels} at {side}")
    for name, columns in record["ratios"].items():
        quartiles = [np.quantile(values, (0.25, 0.5, 0.75)) for values in columns.values()]
        made.add_row(name, *(f"{half:.2f} ({low:.2f} to {high:.2f})"
                             for low, half, high in quartiles))  # fmt: skip
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="three turns; writes no record")
    parser.add_argument("--table", action="store_true", help="the record, without measuring")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    if options.table:
        record = json.loads(RECORD.read_text(encoding="utf-8"))
    else:
        record = measure(3 if options.quick else 60)
        if not options.quick:
            write_atomically(RECORD, json.dumps(record))
    Console().print(table(record))


if __name__ == "__main__":
    main()
