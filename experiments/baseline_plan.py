"""Which baselines are trained beside a pick: matched to its measured latency, checked, and kept.

The plan is a file in the pick's folder, so that a run that was interrupted goes on with the same
networks, although latencies would be measured a little differently.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from configs import UserError
from configs.atomic import write_atomically
from configs.kept import read_json
from evaluators import TooNoisy, count_macs, count_params, deployed, measure_latency, shared_device
from evaluators.metric import describe_metric
from experiments.blueprints import Blueprint, InSpace, OfTimm
from experiments.classification import network_trainer
from experiments.console import busy
from experiments.devices import hold_in_step, latency_device, resolve_device, workers_at_a_time
from experiments.evaluator import image_shape
from experiments.matching import Match, Matching, families, rescaled
from experiments.retraining import Setup, Task, new_task, seed_folder
from experiments.stand_alone import finished_metrics
from experiments.studies import unit_of
from experiments.targets import on_this_host
from search_space import Architecture, SearchSpace

if TYPE_CHECKING:
    from rich.table import Table

STEPS = 3  # that are timed, for the estimate
BUSY = 1.0  # spread over median, up to which networks are matched where the device is busy


@dataclass(frozen=True)
class Planned:
    """A network that is to be trained.

    Attributes:
        distance: From the latency of the pick, as a share of it.
        step_seconds: How long a training step took here; 0 of one that is trained already.
    """

    task: Task
    latency_ms: float
    distance: float
    params: int
    macs: int
    step_seconds: float


@dataclass(frozen=True)
class Entry:
    """A line of the file: a network of the space, or a model of timm's, and its latency.

    Attributes:
        kind: Empty for the pick, else ``family``, ``random``, ``front`` or ``timm``.
    """

    kind: str
    name: str
    latency_ms: float
    architecture: Architecture = ()
    scale: float = 1.0


def plan_baselines(
    setup: Setup,
    pick: Task,
    *,
    with_families: bool,
    models: Sequence[OfTimm],
    front: Sequence[Architecture] = (),
) -> list[Planned]:
    """Return the pick and what is trained beside it, each once; only the plan's file is written.

    Where `with_families` asks for them: each operator of the space alone, and as many random
    architectures. What the pick itself is, is not planned a second time.

    Args:
        front: Members of the front that the pick is from, by their index.

    Raises:
        UserError: A latency can't be measured, or a network can't be trained by the recipe.
    """
    file = pick.folder / "baselines.json"
    entries = _read(file)
    measure = LatencyOf(setup)
    if not entries:
        entries = [Entry("", pick.name, measure(pick.blueprint))]
    target = entries[0].latency_ms
    if with_families and not any(entry.kind == "random" for entry in entries):
        entries += _matched(setup, pick, target, measure)
    known = {entry.name for entry in entries if entry.kind == "timm"}
    entries += [Entry("timm", m.name, measure(m)) for m in models if m.name not in known]
    kept = {entry.architecture for entry in entries if entry.kind == "front"}
    for index, architecture in enumerate(front):
        if architecture not in {*kept, pick.blueprint.architecture}:
            latency = measure.of_space(setup.space, architecture)
            entries.append(Entry("front", f"front-{index}", latency, architecture))
    kinds = ["", *(["family", "random"] if with_families else [])]
    named, members = {model.name for model in models}, set(front)
    with busy("Timing a training step of each network ..."):
        plan = [
            _planned(setup, _task(setup, pick, entry), entry.latency_ms, target)
            for entry in entries
            if entry.kind in kinds
            or (entry.kind == "timm" and entry.name in named)
            or (entry.kind == "front" and entry.architecture in members)
        ]
    lines = json.dumps([dataclasses.asdict(entry) for entry in entries], indent=1)
    write_atomically(file, lines)
    return plan


class LatencyOf:
    """Measures each network once, by the settings and in the unit of the search.

    On a busy device a wider spread will do: networks are matched within 5 % by the median of many
    calls, and what is reported of them is measured again.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup, self.unit = setup, unit_of(setup.config, setup.workspace)
        self._known: dict[str, float] = {}
        self._limits = dict.fromkeys((setup.config.latency.max_spread, BUSY))

    def __call__(self, blueprint: Blueprint) -> float:
        """Return milliseconds.

        Raises:
            UserError: The device is far too busy.
        """
        key = json.dumps(blueprint.identity)
        if key not in self._known:
            self._known[key] = self._measure(blueprint)
        return self._known[key]

    def _measure(self, blueprint: Blueprint) -> float:
        config = self.setup.config
        device = latency_device(config, on_this_host(config).latency)
        with shared_device(device):
            network = blueprint.build().eval().to(device)
        noise: TooNoisy | None = None
        for limit in self._limits:
            settings = dataclasses.replace(config.latency, max_spread=limit)
            try:
                return measure_latency(
                    network,
                    image_shape(config),
                    settings,
                    device=device,
                    reference_ms=self.unit,
                ).median_ms
            except TooNoisy as error:
                noise = error
        raise UserError(
            f"a baseline can't be matched: {noise}. Stop what else runs on the device, or raise "
            "latency.max_spread"
        ) from noise

    def of_space(self, space: SearchSpace, architecture: Architecture) -> float:
        """Return the milliseconds of an architecture."""
        return self(InSpace(space, architecture))


def _matched(setup: Setup, pick: Task, target: float, measure: LatencyOf) -> list[Entry]:
    """Return the families at the latency, and as many random architectures as there are."""
    space = setup.space
    matching = Matching(space, target, measure.of_space)
    found: list[Entry] = []
    names = families(space)
    with busy(f"Matching {len(names)} families and as many random networks to {target:.3g} ms ..."):
        taken = space.canonical(pick.blueprint.architecture)
        for name in names:
            match = matching.family(name)
            if (match.architecture, match.scale) != (taken, 1.0):
                found.append(_entry("family", name, match))
        rng = np.random.default_rng((setup.config.seed, 6))
        for index, match in enumerate(matching.random(len(names), [taken], rng)):
            found.append(_entry("random", f"random-{index}", match))
    return found


def _entry(kind: str, name: str, match: Match) -> Entry:
    return Entry(kind, name, match.latency_ms, match.architecture, match.scale)


def _task(setup: Setup, pick: Task, entry: Entry) -> Task:
    space = setup.space
    if entry.kind == "":
        return pick
    if entry.kind == "timm":
        model = OfTimm(entry.name, space.num_classes, space.in_channels)
        return new_task(setup, entry.name, model, "timm")
    if entry.scale != 1:
        space = rescaled(space, entry.scale)
    network = InSpace(space, entry.architecture, entry.scale)
    return new_task(setup, entry.name, network, entry.kind)


def _read(file: Path) -> list[Entry]:
    if not file.exists():
        return []
    way_out = (
        "it says what was chosen to be trained beside the pick; move it away to choose again: "
        "what is trained already and chosen again is not trained again"
    )
    return read_json(file, _entries, way_out)


def _entries(lines: Any) -> list[Entry]:
    return [Entry(**{**line, "architecture": tuple(line["architecture"])}) for line in lines]


def _planned(setup: Setup, task: Task, latency: float, target: float) -> Planned:
    with shared_device("cpu"):
        network = deployed(task.blueprint.build())
    shape = (1, *image_shape(setup.config))
    return Planned(
        task=task,
        latency_ms=latency,
        distance=latency / target - 1,
        params=count_params(network),
        macs=count_macs(network, shape),
        step_seconds=_step_seconds(setup, task) if _missing(setup, task) else 0.0,
    )


def _step_seconds(setup: Setup, task: Task) -> float:
    """Time the steps of a training that is thrown away: it also shows that the recipe works.

    Raises:
        UserError: It doesn't.
    """
    device, train = resolve_device(setup.config.device), setup.splits.train
    network = task.blueprint.build().to(device)
    trainer = network_trainer(network, setup.config.retrain, train.steps_per_epoch, 0)
    times = []
    for _, (images, labels) in zip(range(STEPS), train.epoch(0)):
        started = time.perf_counter()
        with hold_in_step(device):
            try:
                trainer.train_step(images, labels)
            except (RuntimeError, ValueError) as error:  # a norm of one value, for example
                reason = str(error).splitlines()[0][:200]
                raise UserError(f"{task.name} can't be trained by this recipe: {reason}") from error
        times.append(time.perf_counter() - started)
    return min(times)


def _missing(setup: Setup, task: Task) -> list[int]:
    """Return the seeds that are not trained yet."""
    return [s for s in setup.seeds if finished_metrics(seed_folder(task, s)) is None]


def remaining_seconds(setup: Setup, plan: Sequence[Planned]) -> float:
    """Return about how long the trainings that are not done will take, on all workers."""
    steps = setup.config.retrain.epochs * setup.splits.train.steps_per_epoch
    alone = sum(each.step_seconds * steps * len(_missing(setup, each.task)) for each in plan)
    return alone / max(workers_at_a_time(setup.config), 1)


def plan_table(plan: Sequence[Planned]) -> Table:
    """Return the plan for a terminal of 80 columns."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title="Plan", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in ("network", "what", "ms", "off", "params", "MACs"):
        left = head in ("network", "what")
        table.add_column(head, justify="left" if left else "right", no_wrap=not left)
    for each in plan:
        numbers: list[tuple[str, Any]] = [("params", each.params), ("macs", each.macs)]
        table.add_row(
            each.task.name,
            describe(each.task.blueprint),
            describe_metric("latency_ms").write(each.latency_ms),
            f"{each.distance:+.1%}",
            *(describe_metric(name).write(value) for name, value in numbers),
        )
    return table


def describe(blueprint: Blueprint) -> str:
    """Return in some words what a network is made of."""
    if isinstance(blueprint, InSpace):
        space = blueprint.space
        used = [name for name in blueprint.architecture if not space.is_skip(name)]
        parts = [" ".join(dict.fromkeys(used)), f"{len(used)} of {len(space.layers)} layers"]
        if blueprint.scale != 1:
            parts.append(f"widths x {blueprint.scale:.2f}")
        return ", ".join(filter(None, parts))
    return "timm"
