"""What a network costs on this device: parameters, MACs, memory and measured latency."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from configs.errors import TooNoisy, UserError
from configs.loading import find_config, preset_names, read_yaml
from configs.registry import load_plugins
from configs.suggestions import did_you_mean
from evaluators import (
    Latency,
    LatencySettings,
    count_macs,
    count_params,
    measure_latency,
    peak_memory_mb,
    shared_device,
)
from evaluators.complexity import smallest_and_largest
from evaluators.fingerprint import Fingerprint
from evaluators.latency import measure_program
from evaluators.metric import short_number
from evaluators.runtime import Program
from evaluators.runtimes.onnxruntime import describe_program, open_program
from experiments.devices import resolve_device
from experiments.settings import load_config
from search.space_profile import uniform_architectures
from search_space import Architecture, SearchSpace, build_network, load_architecture

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Measured:
    """One network. `memory_mb` is `evaluators.peak_memory_mb` in float32, of the whole batch.

    Attributes:
        macs, memory_mb: None of a program, whose operations are the exporter's.
        latency: None where the device was too busy; `trouble` says how.
    """

    name: str
    params: int
    macs: int | None
    memory_mb: float | None
    latency: Latency | None
    trouble: str = ""

    def as_values(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Measurement:
    """What `measure` returns: one network, or several."""

    networks: tuple[Measured, ...]

    @property
    def troubles(self) -> list[str]:
        """What could not be measured, and why."""
        return [f"{each.name}: {each.trouble}" for each in self.networks if each.trouble]

    def table(self) -> Table:
        """For a terminal: all about one network, or a line each; and the fingerprint below."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        times = [network.latency for network in self.networks if network.latency is not None]
        shared = _in_common([time.fingerprint for time in times])
        caption = "\n".join(f"{key}: {value}" for key, value in shared.items())
        table = Table(box=SIMPLE_HEAD, caption=caption, caption_justify="left")
        if len(self.networks) == 1:
            table.add_column("", no_wrap=True)
            table.add_column(self.networks[0].name, justify="right")
            for label, value in _cells(self.networks[0]).items():
                table.add_row(label, value)
            return table
        for column in ("network", "params", "MACs", "MB", "ms", "spread", "/ first"):
            table.add_column(column, justify="left" if column == "network" else "right")
        first = times[0].median_ms if times else 1.0
        for network in self.networks:
            time, macs, memory = network.latency, network.macs, network.memory_mb
            counted = [
                short_number(network.params),
                "-" if macs is None else short_number(macs),
                "-" if memory is None else f"{memory:.2f}",
            ]
            timed = ["too busy", "", ""]
            if time is not None:
                median = time.median_ms
                timed = [f"{median:.3f}", f"{time.spread:.1%}", f"{median / first:.2f}"]
            table.add_row(network.name, *counted, *timed)
        return table


def _in_common(fingerprints: Sequence[Fingerprint]) -> Fingerprint:
    if not fingerprints:
        return {}
    first, *rest = fingerprints
    return {k: v for k, v in first.items() if all(other.get(k) == v for other in rest)}


def measure(
    targets: str | Sequence[str],
    settings: LatencySettings | None = None,
    *,
    device: str = "auto",
    input_size: int | None = None,
    overrides: Sequence[str] = (),
    plugins: Sequence[str] = (),
) -> Measurement:
    """Count and time the network(s) behind a name, or several.

    Args:
        targets: Each an ``architecture.yaml``; a timm model's name; an exported ``.onnx`` program,
            which is timed in ONNX Runtime; or a configuration file or preset, of which the
            architectures of fewest and most MACs are measured, and the plain ones, which have one
            candidate throughout.
        settings: How latency is measured; default is `LatencySettings()`.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        input_size: Height and width in pixels; default: the network's own.
        overrides: ``key=value`` for a configuration file or preset.
        plugins: Files to run first, which an ``architecture.yaml`` may name too.

    Raises:
        UserError: A target is unknown (the message names the nearest one), or a setting is not
            possible.
    """
    settings = settings or LatencySettings()
    load_plugins(plugins)
    place = resolve_device(device)
    networks: list[Measured] = []
    for target in [targets] if isinstance(targets, str) else targets:
        if target.endswith(".onnx"):
            networks.append(_measure_program(Path(target), settings, place))
        else:
            found = networks_of(target, overrides, plugins)
            networks += _measure_networks(found, settings, place, input_size)
    return Measurement(tuple(networks))


def _measure_networks(
    found: Iterable[tuple[str, nn.Module, tuple[int, ...]]],
    settings: LatencySettings,
    device: torch.device,
    input_size: int | None,
) -> Iterator[Measured]:
    for name, network, (channels, *size) in found:
        height, width = (input_size, input_size) if input_size else size
        image_shape = (channels, height, width)
        shape = (settings.batch, *image_shape)
        try:
            macs = count_macs(network, shape)
        except UserError:
            raise
        except (AssertionError, RuntimeError, ValueError) as error:
            image = f"{channels}x{height}x{width}"
            raise UserError(f"{name} cannot take images of {image}: {error}") from error
        counted = Measured(name, count_params(network), macs, peak_memory_mb(network, shape), None)
        yield _timed(
            counted, functools.partial(measure_latency, network, image_shape, settings), device
        )


def _measure_program(file: Path, settings: LatencySettings, device: torch.device) -> Measured:
    """Time an exported program as it is, at the batch it is for.

    Raises:
        UserError: It can't be read.
    """
    params, shape = describe_program(file)
    batch, *image_shape = shape
    settings = dataclasses.replace(
        settings, runtime="onnxruntime", batch=batch or settings.batch, dtype="float32"
    )
    sizes = [size for size in image_shape if size is not None]
    content = file.read_bytes()

    def make(example: torch.Tensor) -> Program:
        return open_program(content, example, settings)

    timer = functools.partial(measure_program, make, sizes, settings)
    return _timed(Measured(str(file), params, None, None, None), timer, device)


def _timed(counted: Measured, timer: Callable[..., Latency], device: torch.device) -> Measured:
    try:
        return dataclasses.replace(counted, latency=timer(device=device))
    except TooNoisy as noise:
        trouble = f"{noise}. End what else runs here and try again."
        return dataclasses.replace(counted, trouble=trouble)


def networks_of(
    target: str, overrides: Sequence[str], plugins: Sequence[str]
) -> Iterator[tuple[str, nn.Module, tuple[int, ...]]]:
    """Yield (name, network, (C, H, W)) of everything that a target of `measure` stands for.

    Raises:
        UserError: It is unknown.
    """
    if not Path(target).is_file() and target not in preset_names():
        yield _timm_model(target)
        return
    path = find_config(target)
    if "architecture" in read_yaml(path):
        space, architecture = load_architecture(path, plugins)
        chosen = {target: architecture}
    else:
        config = load_config(path, overrides)
        space = SearchSpace(config.space, config.plugins)
        chosen = _of_space(space)
    for name, architecture in chosen.items():
        with shared_device("cpu"):
            network = build_network(space, architecture)
        yield name, network, _image_shape(space)


def _of_space(space: SearchSpace) -> dict[str, Architecture]:
    """Return what tells most about a space, by a name for people: its ends, and what is plain."""
    smallest, largest = smallest_and_largest(space)
    plain = {
        next(filter(lambda name: not space.is_skip(name), each), each[0]): each
        for each in uniform_architectures(space)
    }
    return {"smallest": smallest, **plain, "largest": largest}


def _image_shape(space: SearchSpace) -> tuple[int, int, int]:
    return space.in_channels, space.input_size, space.input_size


def _timm_model(name: str) -> tuple[str, nn.Module, tuple[int, ...]]:
    import timm
    import timm.data

    if not timm.is_model(name):
        if name.endswith((".yaml", ".yml")):
            raise UserError(f"{name!r}: there is no such file")
        known = [*timm.list_models(), *preset_names()]
        hint = did_you_mean(name, known, "see timm.list_models()")
        raise UserError(f"{name!r} is neither a file, a preset nor a timm model; {hint}")
    with shared_device("cpu"):
        model = timm.create_model(name, pretrained=False)
    return name, model, timm.data.resolve_model_data_config(model)["input_size"]


def _cells(network: Measured) -> dict[str, str]:
    latency, macs, memory = network.latency, network.macs, network.memory_mb
    counted = {"params": f"{network.params:,}"}
    if macs is not None and memory is not None:
        counted |= {"MACs per image": f"{macs:,}", "tensors, float32 (MB)": f"{memory:.2f}"}
    if latency is None:
        return {**counted, "latency, median (ms)": "too busy"}
    return {
        **counted,
        "latency, median (ms)": f"[bold]{latency.median_ms:.3f}[/]",
        "p10 .. p90 (ms)": f"{latency.p10_ms:.3f} .. {latency.p90_ms:.3f}",
        "spread (IQR / median)": f"{latency.spread:.1%}",
        "uncorrected median (ms)": f"{latency.raw_median_ms:.3f}",
        "reference network (ms)": f"{latency.reference_ms:.3f}",
        "timed calls": str(latency.repeats),
    }
