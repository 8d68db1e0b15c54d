"""ONNX programs of many networks: what they share is exported once.

An export takes seconds, timing its program less than one. The parts of a network (stem, layers, the
rest) meet in one tensor only, so its program is that of its parts, one behind the other.
"""

from __future__ import annotations

import copy
import hashlib
import io
import pickle
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evaluators.recent import Recent

if TYPE_CHECKING:
    import onnx

LIMIT_MB = 1024  # of the exported parts that a process keeps

Export = Callable[[nn.Module, tuple[Tensor, ...], Sequence[str], Sequence[str]], "onnx.ModelProto"]

_exported: Recent[onnx.ModelProto] = Recent(LIMIT_MB * 2**20)  # each with one input and one output


def export_in_parts(
    parts: Sequence[nn.Module], images: Tensor, export: Export, form: str = ""
) -> onnx.ModelProto:
    """Return the program of a chain of parts; those that are new are exported, together.

    Input and output are called ``images`` and ``logits``.

    Args:
        parts: In eval mode, contiguous, on the device and of the dtype of the images.
        images: (B, C, H, W), of the batch that is exported for.
        export: Exports a module for examples of its inputs, with names of inputs and outputs.
        form: Another one for an export of another kind, so that parts are not taken from it.
    """
    x, keys = images.to("meta"), []  # its shapes are needed only
    programs: dict[str, onnx.ModelProto] = {}
    new: dict[str, tuple[nn.Module, Tensor]] = {}
    for part in parts:
        if isinstance(part, nn.Identity):
            continue
        example = images.new_zeros(x.shape)
        keys.append(form + _key(part, example))
        if (program := _exported.get(keys[-1])) is None:
            new[keys[-1]] = part, example
        else:
            programs[keys[-1]] = program
        x = copy.deepcopy(part).to("meta")(x)
    programs |= _export_together(new, export)
    return _chain([programs[key] for key in keys])


class _SideBySide(nn.Module):
    """Parts that do not know of one another, each with an input and an output of its own."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(part(x) for part, x in zip(self.parts, inputs))


def _export_together(
    new: dict[str, tuple[nn.Module, Tensor]], export: Export
) -> dict[str, onnx.ModelProto]:
    """Export parts at once, because each export takes half a second before it begins."""
    if not new:
        return {}
    from onnx.utils import Extractor

    modules, inputs = zip(*new.values())
    first, last = ([f"{end}_{number}" for number in range(len(new))] for end in ("in", "out"))
    extractor = Extractor(export(_SideBySide(modules).eval(), inputs, first, last))
    programs = {}
    for key, begin, end in zip(new, first, last):
        programs[key] = extractor.extract_model([begin], [end])
        _exported.put(key, programs[key], programs[key].ByteSize())
    return programs


def _chain(programs: Sequence[onnx.ModelProto]) -> onnx.ModelProto:
    """Put programs one behind the other."""
    from onnx.compose import add_prefix, merge_models

    whole, *others = (add_prefix(program, f"{n}/") for n, program in enumerate(programs))
    for other in others:
        joint = whole.graph.output[0].name, other.graph.input[0].name
        whole = merge_models(whole, other, [joint])
    graph = whole.graph
    ends = {graph.input[0].name: "images", graph.output[0].name: "logits"}
    for node in graph.node:
        node.input[:] = [ends.get(name, name) for name in node.input]
        node.output[:] = [ends.get(name, name) for name in node.output]
    graph.input[0].name, graph.output[0].name = ends.values()
    return whole


def _key(part: nn.Module, x: Tensor) -> str:
    """A digest of all that an export depends on: the part with its values, the form of its input.

    A part that cannot be pickled, as with a lambda in it, is like no other.
    """
    file = io.BytesIO()
    try:
        _Pickler(file).dump((part, tuple(x.shape), x.dtype, x.device))
    except (AttributeError, TypeError, pickle.PicklingError):
        return uuid.uuid4().hex
    return hashlib.sha256(file.getvalue()).hexdigest()


class _Pickler(pickle.Pickler):
    """Writes a tensor as its values, without the place where it is stored."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        content = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        digest = hashlib.sha256(content.tobytes()).digest()
        return tuple, ((str(value.dtype), tuple(value.shape), digest),)
