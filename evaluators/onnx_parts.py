"""ONNX programs of many architectures: what they share is exported once.

An export takes seconds, a measurement less than one. The parts of a network (stem, layers, rest)
meet in one tensor only, so the program of a network is that of its parts, one behind the other: the
same as that of an export in one piece, but for the names in it.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evaluators.recent import Recent

if TYPE_CHECKING:
    import onnx

LIMIT_MB = 1024  # of the exported parts that a process keeps

Export = Callable[[nn.Module, tuple[Tensor, ...], list[str], list[str]], "onnx.ModelProto"]

_exported: Recent[onnx.ModelProto] = Recent(LIMIT_MB * 2**20)  # each with one input and one output


def export_in_parts(parts: Sequence[nn.Module], images: Tensor, export: Export) -> onnx.ModelProto:
    """Return the program of a chain of parts; those that are new are exported, together.

    Input and output are called ``images`` and ``logits``.

    Args:
        parts: In eval mode, on the device and of the dtype of the images.
        images: (B, C, H, W), of the batch that is exported for.
        export: Exports a module for examples of its inputs, with names of inputs and outputs.
    """
    x, keys = images, []
    known: dict[str, onnx.ModelProto] = {}
    new: dict[str, tuple[nn.Module, Tensor]] = {}
    for part in parts:
        if isinstance(part, nn.Identity):
            continue
        key = _key(part, x)
        keys.append(key)
        program = _exported.get(key)
        if program is None:
            new[key] = part, torch.zeros_like(x)
        else:
            known[key] = program
        x = part(x)
    if new:
        known |= _export(new, export)
    return _chain([known[key] for key in keys])


class _SideBySide(nn.Module):
    """Parts that do not know of one another, each with an input and an output of its own."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(part(x) for part, x in zip(self.parts, inputs))


def _export(
    new: dict[str, tuple[nn.Module, Tensor]], export: Export
) -> dict[str, onnx.ModelProto]:
    """Export parts in one go, which takes half a second less for each, and keep them."""
    from onnx.utils import Extractor

    modules, inputs = zip(*new.values())
    names = [(f"input_{number}", f"output_{number}") for number in range(len(new))]
    first, last = zip(*names)
    together = export(_SideBySide(modules).eval(), inputs, [*first], [*last])
    extractor = Extractor(together)
    programs = {}
    for key, (start, end) in zip(new, names):
        programs[key] = extractor.extract_model([start], [end])
        _exported.put(key, programs[key], programs[key].ByteSize())
    return programs


def _chain(programs: Sequence[onnx.ModelProto]) -> onnx.ModelProto:
    """Put programs behind one another; names get the number of the program before them."""
    import onnx

    whole = onnx.ModelProto()
    whole.CopyFrom(programs[0])
    whole.graph.Clear()
    whole.graph.name = "main_graph"
    passed = "images"
    for number, program in enumerate(programs):
        graph = program.graph
        last = number == len(programs) - 1
        output = "logits" if last else f"{number}/{graph.output[0].name}"
        names = {graph.input[0].name: passed, graph.output[0].name: output, "": ""}

        def renamed(name: str, names: dict[str, str] = names, number: int = number) -> str:
            return names[name] if name in names else f"{number}/{name}"

        for node in graph.node:
            copy = whole.graph.node.add()
            copy.CopyFrom(node)
            copy.name = renamed(node.name)
            copy.input[:] = map(renamed, node.input)
            copy.output[:] = map(renamed, node.output)
        for constant in graph.initializer:
            copied = whole.graph.initializer.add()
            copied.CopyFrom(constant)
            copied.name = renamed(constant.name)
        passed = output
    for own, value, name in (
        (whole.graph.input, programs[0].graph.input[0], "images"),
        (whole.graph.output, programs[-1].graph.output[0], "logits"),
    ):
        own.add().CopyFrom(value)
        own[0].name = name
    return whole


def _key(part: nn.Module, x: Tensor) -> str:
    """A digest of everything that an export depends on: the part with all its values, its input."""
    file = io.BytesIO()
    _Digestible(file).dump((part, tuple(x.shape), x.dtype, x.device))
    return hashlib.sha256(file.getvalue()).hexdigest()


class _Digestible(pickle.Pickler):
    """Writes tensors as their values, not where they are stored: equal parts are equal bytes."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        content = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return bytes, (hashlib.sha256(content).digest(),), (str(value.dtype), tuple(value.shape))
