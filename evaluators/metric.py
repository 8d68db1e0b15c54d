"""What a metric is; those there are lie in `evaluators/metrics/`.

Objectives, bounds, tables, plots, pages and MLflow read from here how a metric is called, written
and measured; nothing else spells it out. A user adds one in a file of their own::

    @register_metric("energy_mj", label="energy", unit="mJ", direction="minimize", effort=TIMED)
    def energy_mj(subject):
        return my_meter.run(subject.network, subject.image_shape)

names the file under ``plugins:`` and searches for ``energy_mj`` like for any other.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from configs.errors import UserError
from configs.latency import LatencySettings
from configs.registry import Registry
from configs.suggestions import did_you_mean
from evaluators.subject import Subject
from search_space import Architecture, SearchSpace

Direction = Literal["maximize", "minimize"]

# Places in the cascade: the cheaper metrics of an architecture come first.
COUNTED = 0  # read off the network, the same at every reading: under a second
TIMED = 1  # measured on the device, which no other process may use meanwhile: seconds
EVALUATED = 2  # needs images: seconds to minutes

AT = "@"  # between a metric and the target device on which it is measured

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
