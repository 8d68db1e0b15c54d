"""What a network costs on this device: parameters, MACs, memory and measured latency."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from configs.errors import TooNoisy, UserError
from configs.loading import find_config, preset_names, read_yaml
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
from evaluators.metrics import short_number
from experiments.devices import resolve_device
from experiments.settings import load_config
from search.space_profile import uniform_architectures
from search_space import Architecture, SearchSpace, build_network, load_architecture

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Measured:
    """One network. `memory_mb` is `evaluators.peak_memory_mb` in float32, of the whole batch."""

    name: str
    params: int
    macs: int
    memory_mb: float
    latency: Latency


@dataclass(frozen=True)
class Measurement:
    """What `measure` returns: one network, or several of a space. All share one fingerprint."""

    networks: tuple[Measured, ...]

    def table(self) -> Table:
        """For a terminal: all about one network, or a line each; and the fingerprint below."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        fingerprint = self.networks[0].latency.fingerprint
        caption = "\n".join(f"{key}: {value}" for key, value in fingerprint.items())
        table = Table(box=SIMPLE_HEAD, caption=caption, caption_justify="left")
        if len(self.networks) == 1:
            table.add_column("", no_wrap=True)
            table.add_column(self.networks[0].name, justify="right")
            for label, value in _cells(self.networks[0]).items():
                table.add_row(label, value)
            return table
        for column in ("network", "params", "MACs", "MB", "ms", "spread", "/ smallest"):
            table.add_column(column, justify="left" if column == "network" else "right")
        first = self.networks[0].latency.median_ms
        for network in self.networks:
            latency = network.latency
            table.add_row(
                network.name,
                short_number(network.params),
                short_number(network.macs),
                f"{network.memory_mb:.2f}",
                f"{latency.median_ms:.3f}",
                f"{latency.spread:.1%}",
                f"{latency.median_ms / first:.2f}",
            )
        return table


def measure(
    target: str,
    settings: LatencySettings | None = None,
    *,
    device: str = "auto",
    input_size: int | None = None,
    overrides: Sequence[str] = (),
) -> Measurement:
    """Count and time the network(s) behind a name.

    Args:
        target: An ``architecture.yaml``; a timm model's name; or a configuration file or preset,
            of which the architectures of fewest and most MACs are measured, and the plain ones,
            which have one candidate throughout.
        settings: How latency is measured; default is `LatencySettings()`.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        input_size: Height and width in pixels; default: the network's own.
        overrides: ``key=value`` for a configuration file or preset.

    Raises:
        UserError: The target is unknown (the message names the nearest one), a setting is not
            possible, or the machine is too busy for a latency.
    """
    settings = settings or LatencySettings()
    networks = []
    place = resolve_device(device)
    for name, network, (channels, *size) in _networks(target, overrides):
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
        try:
            latency = measure_latency(network, image_shape, settings, device=place)
        except TooNoisy as noise:
            raise UserError(f"{name}: {noise}. End what else runs here and try again.") from noise
        networks.append(
            Measured(
                name=name,
                params=count_params(network),
                macs=macs,
                memory_mb=peak_memory_mb(network, shape),
                latency=latency,
            )
        )
    return Measurement(tuple(networks))


def _networks(
    target: str, overrides: Sequence[str]
) -> Iterator[tuple[str, nn.Module, tuple[int, ...]]]:
    """(name, network, (C, H, W)) of everything that is to be measured."""
    if not Path(target).is_file() and target not in preset_names():
        yield _timm_model(target)
        return
    path = find_config(target)
    if "architecture" in read_yaml(path):
        space, architecture = load_architecture(path)
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
    latency = network.latency
    return {
        "params": f"{network.params:,}",
        "MACs per image": f"{network.macs:,}",
        "tensors, float32 (MB)": f"{network.memory_mb:.2f}",
        "latency, median (ms)": f"[bold]{latency.median_ms:.3f}[/]",
        "p10 .. p90 (ms)": f"{latency.p10_ms:.3f} .. {latency.p90_ms:.3f}",
        "spread (IQR / median)": f"{latency.spread:.1%}",
        "uncorrected median (ms)": f"{latency.raw_median_ms:.3f}",
        "reference network (ms)": f"{latency.reference_ms:.3f}",
        "timed calls": str(latency.repeats),
    }
