"""What a metric is, and the metrics there are.

Objectives, bounds, tables, plots, pages and MLflow read from here how a metric is called, written
and measured; nothing else spells it out. A user adds one in a file of their own::

    @register_metric("energy_mj", label="energy", unit="mJ", direction="minimize", effort=TIMED)
    def energy_mj(subject):
        return my_meter.run(subject.network, subject.image_shape)

names the file under ``plugins:`` and searches for ``energy_mj`` like for any other.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import nn

from configs.errors import Stopped, UserError
from configs.latency import LatencySettings
from configs.registry import Registry
from configs.suggestions import did_you_mean
from evaluators.accuracy import Reading, accuracy_error, read_all, read_by_batch
from evaluators.calibration import SizedBatches, recalibrate
from evaluators.complexity import count_macs, count_params, peak_memory_mb
from evaluators.latency import Latency, measure_latency
from evaluators.memory_table import MemoryTable
from evaluators.racing import cannot_reach, stays_above
from evaluators.runtimes import deployed
from evaluators.training_free import IMAGES, naswot, trainability
from search_space import Architecture, SearchSpace

Direction = Literal["maximize", "minimize"]

# Places in the cascade: the cheaper metrics of an architecture come first.
COUNTED = 0  # read off the network, the same at every reading: under a second
TIMED = 1  # measured on the device, which no other process may use meanwhile: seconds
EVALUATED = 2  # needs images: seconds to minutes

AT = "@"  # between a metric and the target device on which it is measured


class EvaluationData(Protocol):
    """The images that an evaluation may see; `experiments.data` provides them."""

    @property
    def calibration(self) -> SizedBatches:
        """Training images in a fixed order, without augmentation."""

    @property
    def validation(self) -> SizedBatches:
        """Images that are neither trained on nor tested on: what this evaluation may read.

        In random order, so that some of them may be read for all.
        """


def time_here(subject: Subject) -> Latency:
    """Time a network on its own device."""
    return measure_latency(
        subject.network,
        subject.image_shape,
        subject.settings,
        device=subject.device,
        reference_ms=subject.reference_ms,
    )


@dataclass
class Subject:
    """A network under measurement, and what it is measured with. Costly parts are made on demand.

    Attributes:
        network: The stand-alone network with its weights, on its device. Measuring must not change
            it. Its batch-norm statistics may be those of a supernet; see `calibrated`.
        image_shape: (C, H, W) of one image.
        load_data: Gives the images, when a metric first asks for them.
        settings: How latency is measured; its batch is that of memory too.
        reference_ms: The unit of latencies, see `measure_latency`; None for that of this process.
        recalibrate: Recalibrates batch norms; as `evaluators.recalibrate`, or sooner.
        read_by_batch: Reads answers to images; as `evaluators.accuracy.read_by_batch`, or sooner.
        timed_devices: Those of this machine on which latencies are timed: whatever else an
            evaluation does keeps off them, too, while they are in use.
        target: The target device that is meant; "" is the one that `settings` are about.
        time: Measures the latency on that target.
    """

    network: nn.Module
    image_shape: tuple[int, int, int]
    load_data: Callable[[], EvaluationData]
    settings: LatencySettings
    device: torch.device
    reference_ms: float | None = None
    recalibrate: Callable[[Any, SizedBatches], None] = recalibrate
    read_by_batch: Callable[[Any, SizedBatches], Iterator[Reading]] = read_by_batch
    timed_devices: tuple[torch.device, ...] = ()
    target: str = ""
    time: Callable[[Subject], Latency] = time_here

    @functools.cached_property
    def deployed(self) -> nn.Module:
        """The network as it is shipped: eval mode, training-time branches fused."""
        return deployed(self.network)

    @functools.cached_property
    def data(self) -> EvaluationData:
        """Calibration and validation images."""
        return self.load_data()

    @functools.cached_property
    def first_images(self) -> torch.Tensor:
        """The first `IMAGES` calibration images, (B, C, H, W), for scores of untrained networks."""
        images, _ = next(iter(self.data.calibration))
        return images[:IMAGES]

    @functools.cached_property
    def calibrated(self) -> nn.Module:
        """A copy with batch-norm statistics of its own, in eval mode."""
        network = copy.deepcopy(self.network)
        self.recalibrate(network, self.data.calibration)
        return network


Values = Mapping[str, float]  # metric names to values, with companions such as `latency_spread`
Calculate = Callable[[Architecture], float]
MakeTable = Callable[[SearchSpace, LatencySettings, torch.device], Calculate | None]


@dataclass(frozen=True)
class Metric:
    """One number about an architecture.

    Attributes:
        name: As configurations, studies and MLflow spell it.
        label: As people read it, without the unit.
        unit: Behind a value, and in brackets behind the label; may be empty.
        direction: Which way is better.
        effort: Its place in the cascade: `COUNTED`, `TIMED` or `EVALUATED`.
        measure: Returns the value, or a mapping that holds it with its companions.
        companions: Names of the other numbers that `measure` returns.
        write: A value for people, without the unit.
        error: The uncertainty of the value among an architecture's values, in its unit.
        always: Whether every search measures it, asked for or not.
        additive: Whether it is a sum over the layers of an architecture, whose smallest and largest
            value in a space can then be calculated.
        table: Makes a function that calculates the value of any architecture of a space; None where
            it has to be measured.
        ceiling: What no value exceeds, such as 100 % of accuracy; None where there is no such end.
            The nearer to it, the harder is the next step.
        stands_for: Another metric, which comes with this one and is meant by it: where weights are
            inherited, this one ranks networks better. Networks that were trained alone are compared
            by the other.
        race: Does as `measure`, but may raise `Stopped`, with what it has read, once the value
            cannot reach a given one any more; None of a metric that is not read bit by bit.
        on_targets: Whether ``NAME@TARGET`` is a metric too: this one on that target device, which
            `measure` finds in `Subject.target`.
    """

    name: str
    label: str
    unit: str
    direction: Direction
    effort: int
    measure: Callable[[Subject], float | Values]
    write: Callable[[float], str] = "{:.4g}".format
    error: Callable[[Values], float | None] = lambda values: None
    always: bool = False
    additive: bool = False
    table: MakeTable = lambda space, settings, device: None
    companions: tuple[str, ...] = ()
    ceiling: float | None = None
    stands_for: str = ""
    race: Callable[[Subject, float], Values] | None = None
    on_targets: bool = False

    def on(self, target: str) -> Metric:
        """Return this metric on a target device; its companions have the same ending."""
        ending = f"{AT}{target}"

        def measure(subject: Subject) -> Values:
            values = self.values(dataclasses.replace(subject, target=target))
            return {f"{name}{ending}": value for name, value in values.items()}

        def error(values: Values) -> float | None:
            own = {n.removesuffix(ending): v for n, v in values.items() if n.endswith(ending)}
            return self.error(own)

        return dataclasses.replace(
            self,
            name=f"{self.name}{ending}",
            label=f"{self.label} on {target}",
            measure=measure,
            error=error,
            companions=tuple(f"{name}{ending}" for name in self.companions),
            on_targets=False,
        )

    @property
    def title(self) -> str:
        """The label with the unit, for axes and column heads: ``latency (ms)``."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def text(self, value: float) -> str:
        """A value with its unit: ``98.33%``, ``2.31 ms``, ``1.06M``."""
        gap = "" if self.unit in ("", "%") else " "
        return f"{self.write(value)}{gap}{self.unit}"

    def values(self, subject: Subject, to_reach: float | None = None) -> dict[str, float]:
        """Measure, and return the value under its name together with its companions.

        Args:
            to_reach: What the value is raced against, where the metric can race.

        Raises:
            Stopped: The value cannot reach the given one.
            UserError: The measurement does not return a finite number of this name.
            TooNoisy: The device was too busy.
        """
        if self.race is None or to_reach is None:
            measured = self.measure(subject)
        else:
            measured = self.race(subject, to_reach)
        values = dict(measured) if isinstance(measured, Mapping) else {self.name: measured}
        value = values.get(self.name)
        if value is None or not math.isfinite(value):
            raise UserError(f"metric {self.name!r} is {value}; a finite number is needed")
        return {name: float(number) for name, number in values.items()}


class Metrics(Registry[Metric]):
    """The registered metrics, and those of them on target devices: ``latency_ms@pi5``."""

    def __getitem__(self, name: str) -> Metric:
        base, _, target = name.partition(AT)
        if not target or name in self._entries:
            return super().__getitem__(name)
        metric = super().__getitem__(base)
        if not metric.on_targets:
            known = [f"{each}{AT}{target}" for each in self if self[each].on_targets]
            raise UserError(f"{self.kind} {name!r} does not exist; {did_you_mean(name, known)}")
        return metric.on(target)

    def __contains__(self, name: object) -> bool:
        base, _, target = str(name).partition(AT)
        on_target = bool(target) and base in self._entries and self._entries[base].on_targets
        return name in self._entries or on_target


METRICS = Metrics("metric")


def register_metric(
    name: str,
    *,
    label: str,
    direction: Direction,
    effort: int,
    unit: str = "",
    write: Callable[[float], str] = "{:.4g}".format,
    error: Callable[[Values], float | None] = lambda values: None,
    always: bool = False,
    additive: bool = False,
    table: MakeTable = lambda space, settings, device: None,
    companions: tuple[str, ...] = (),
    ceiling: float | None = None,
    stands_for: str = "",
    race: Callable[[Subject, float], Values] | None = None,
    on_targets: bool = False,
) -> Callable[[Callable[[Subject], float | Values]], Callable[[Subject], float | Values]]:
    """Return a decorator that makes a function ``measure(subject)`` available as a metric.

    Arguments as the attributes of `Metric`.

    Raises:
        UserError: Another metric has that name already.
    """

    def register(
        measure: Callable[[Subject], float | Values],
    ) -> Callable[[Subject], float | Values]:
        METRICS.register(name)(
            Metric(
                name=name,
                label=label,
                unit=unit,
                direction=direction,
                effort=effort,
                measure=measure,
                write=write,
                error=error,
                always=always,
                additive=additive,
                table=table,
                companions=companions,
                ceiling=ceiling,
                stands_for=stands_for,
                race=race,
                on_targets=on_targets,
            )
        )
        return measure

    return register


def describe_metric(name: str) -> Metric:
    """Return how a metric is written: the registered one, or plainly one that is not registered.

    The latter are those that a user's own evaluator returns and nobody declared.
    """
    if name in METRICS:
        return METRICS[name]
    return Metric(name, name, "", "minimize", COUNTED, _not_measured)


def metrics_among(names: Iterable[str]) -> list[Metric]:
    """Return the metrics that are registered, in their order; beside each those on targets."""
    places = {name: place for place, name in enumerate(METRICS)}

    def key(name: str) -> tuple[int, str]:
        return places[name if name in places else name.partition(AT)[0]], name

    return [METRICS[name] for name in sorted({n for n in names if n in METRICS}, key=key)]


def by_registration(names: Mapping[str, object] | set[str]) -> list[str]:
    """Sort metric names for people: registered ones in their order, then the others by name."""
    known = [metric.name for metric in metrics_among(names)]
    return known + sorted(set(names) - set(known))


def short_number(value: float) -> str:
    """Write a count for people: 1234567 -> 1.23M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _not_measured(subject: Subject) -> float:
    raise UserError("this metric comes from an evaluator; it cannot be measured on its own")


def _latency_error(values: Values) -> float | None:
    """Half the interquartile range of the timed calls."""
    if "latency_spread" not in values:
        return None
    return values["latency_ms"] * values["latency_spread"] / 2


def _accuracy_error(values: Values) -> float | None:
    """The binomial standard error, see `accuracy_error`."""
    if "accuracy_images" not in values:
        return None
    return accuracy_error(values["accuracy"], round(values["accuracy_images"]))


def _answers(subject: Subject) -> Values:
    """Return what a calibrated network answers to the validation images."""
    return _values(read_all(subject.read_by_batch(subject.calibrated, subject.data.validation)))


def _race(subject: Subject, out_of_reach: Callable[[Reading, int, int], bool]) -> Values:
    """Read batch by batch, as long as it is worth it.

    Args:
        out_of_reach: Says of what was read so far, of the number of all images, and of how often it
            is asked at most, that the rest need not be read.

    Raises:
        Stopped: It was out of reach.
    """
    validation = subject.data.validation
    total, looks = validation.images, max(len(validation) - 1, 1)
    batches = subject.read_by_batch(subject.calibrated, validation)
    reading = read_all(batches, lambda sums: out_of_reach(sums, total, looks))
    if reading.images < total:
        raise Stopped(f"{reading.correct} of {reading.images} images right", _values(reading))
    return _values(reading)


def _values(reading: Reading) -> Values:
    return {
        "accuracy": reading.accuracy,
        "accuracy_images": reading.images,
        "cross_entropy": reading.cross_entropy,
        "cross_entropy_deviation": reading.deviation,
    }


def _accuracy_race(subject: Subject, to_reach: float) -> Values:
    """Read batch by batch, and stop once the accuracy cannot reach another, see `cannot_reach`."""

    def out_of_reach(reading: Reading, total: int, looks: int) -> bool:
        needed = round(to_reach * total / 100)
        return cannot_reach(reading.correct, reading.images, needed, total, looks)

    return _race(subject, out_of_reach)


def _cross_entropy_race(subject: Subject, to_reach: float) -> Values:
    """Read batch by batch, and stop once it cannot come down to another, see `stays_above`."""
    return _race(
        subject, lambda reading, total, looks: stays_above(reading, to_reach, total, looks)
    )


def _cross_entropy_error(values: Values) -> float | None:
    """The standard error of the mean."""
    if "cross_entropy_deviation" not in values:
        return None
    return values["cross_entropy_deviation"] / math.sqrt(values["accuracy_images"])


@register_metric(
    "accuracy",
    label="accuracy",
    unit="%",
    direction="maximize",
    effort=EVALUATED,
    write="{:.2f}".format,
    error=_accuracy_error,
    companions=("accuracy_images", "cross_entropy", "cross_entropy_deviation"),
    ceiling=100.0,
    race=_accuracy_race,
)
def accuracy(subject: Subject) -> Values:
    """Top-1 accuracy on validation images, batch norms recalibrated; with the images' number."""
    return _answers(subject)


@register_metric(
    "cross_entropy",
    label="cross entropy",
    direction="minimize",
    effort=EVALUATED,
    write="{:.3f}".format,
    error=_cross_entropy_error,
    companions=("cross_entropy_deviation", "accuracy", "accuracy_images"),
    stands_for="accuracy",
    race=_cross_entropy_race,
)
def cross_entropy(subject: Subject) -> Values:
    """Mean cross entropy on the same images, in nats.

    With inherited weights it ranks architectures much better than the accuracy does
    (docs/ranking.md), and comes with the accuracy.
    """
    return _answers(subject)


@register_metric(
    "latency_ms",
    label="latency",
    unit="ms",
    direction="minimize",
    effort=TIMED,
    write="{:.3g}".format,
    error=_latency_error,
    companions=("latency_spread", "latency_reference_ms"),
    on_targets=True,
)
def latency_ms(subject: Subject) -> Values:
    """Median time of a forward pass, see `measure_latency`; with its relative spread and unit."""
    latency = subject.time(subject)
    return {
        "latency_ms": latency.median_ms,
        "latency_spread": latency.spread,
        "latency_reference_ms": latency.reference_ms,
    }


@register_metric(
    "params",
    label="params",
    direction="minimize",
    effort=COUNTED,
    write=short_number,
    always=True,
    additive=True,
)
def params(subject: Subject) -> float:
    """Learnable numbers of the network as it is shipped."""
    return count_params(subject.deployed)


@register_metric(
    "macs",
    label="MACs",
    direction="minimize",
    effort=COUNTED,
    write=short_number,
    always=True,
    additive=True,
)
def macs(subject: Subject) -> float:
    """Multiply-accumulates of one image."""
    return count_macs(subject.deployed, (1, *subject.image_shape))


def _memory_table(
    space: SearchSpace, settings: LatencySettings, device: torch.device
) -> Calculate | None:
    """What CUDA's allocator holds is not a property of the network."""
    return None if device.type == "cuda" else MemoryTable(space, settings.batch)


@register_metric(
    "memory_mb",
    label="memory",
    unit="MB",
    direction="minimize",
    effort=COUNTED,
    write="{:.3g}".format,
    table=_memory_table,
)
def memory_mb(subject: Subject) -> float:
    """Peak memory of one inference, see `peak_memory_mb`: measured on CUDA, counted elsewhere."""
    return peak_memory_mb(subject.deployed, (subject.settings.batch, *subject.image_shape))


@register_metric(
    "naswot", label="NASWOT", direction="maximize", effort=COUNTED, write="{:.1f}".format
)
def naswot_score(subject: Subject) -> float:
    """Log-determinant of the activation kernel of the untrained network, see `naswot`."""
    return naswot(subject.network, subject.first_images)


@register_metric(
    "trainability",
    label="trainability",
    direction="maximize",
    effort=COUNTED,
    write="{:.3f}".format,
)
def trainability_score(subject: Subject) -> float:
    """How well blocks of the untrained network keep gradients alive, see `trainability`."""
    return trainability(subject.network, subject.first_images)
