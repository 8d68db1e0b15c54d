"""Trains baselines beside a pick: plain and random networks of its latency, and timm models.

All are matched and checked before anything is trained, and trained by the recipe and the seeds of
the pick, on the workers of the search.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from configs import Config, UserError
from experiments.baseline_plan import Planned, plan_baselines, plan_table, remaining_seconds
from experiments.blueprints import InSpace, timm_models
from experiments.console import console, step_progress
from experiments.matching import TOLERANCE
from experiments.matching import families as families_of
from experiments.reporting.baselines import Trained, baselines_table, write_baselines
from experiments.reporting.front import read_records
from experiments.reporting.orders import interval_text, retrained_orders
from experiments.reporting.verified import VERIFIED_TABLE
from experiments.retrained import Retrained, better_plain, comparable, verdict
from experiments.retraining import (
    SeedTrainings,
    Setup,
    Task,
    begin_run,
    new_task,
    prepare_setup,
    run_name,
    seed_folder,
    track_epoch,
    track_result,
    train_seed,
)
from experiments.shipping import finish_retraining, register, write_task
from experiments.stand_alone import train_all
from experiments.tracking.tracker import Tracker
from experiments.training_history import TrainingHistory
from experiments.workspace import Workspace, open_tracker
from search.trials import TrialRecord
from search_space import Architecture, SearchSpace


def retrain_beside(
    config: Config,
    workspace: Workspace,
    architecture: Architecture,
    name: str,
    *,
    families: bool = True,
    against: str = "",
    front: Sequence[TrialRecord] = (),
) -> list[Trained]:
    """Train a pick and its baselines, print and keep how they compare; see `plan_baselines`.

    Writes ``report/baselines.csv`` and ``.md``, and a folder for each network as
    `experiments.retrain.retrain_architecture` does.

    Args:
        families: Train each operator of the space alone, and as many random architectures.
        against: timm models, separated by commas.
        front: Members of the front to train as well; how their order was foretold is printed.

    Returns:
        The networks, the pick first.

    Raises:
        UserError: Something is not possible; nothing was trained then.
        KeyboardInterrupt: Asked to stop; the same call goes on.
    """
    if config.retrain.inherit:
        raise UserError(
            "retrain.inherit: true is not possible with baselines, which no supernet has weights "
            "for; all are trained from scratch"
        )
    space = Setup(config, workspace).space
    space.validate(architecture)
    models = timm_models(against, space)
    setup = prepare_setup(config, workspace)
    pick = new_task(setup, name, InSpace(space, tuple(architecture)))
    members = [record.architecture for record in front]
    plan = plan_baselines(setup, pick, with_families=families, models=models, front=members)
    console.print(plan_table(plan))
    _say_what_is_coming(setup, plan)
    if not workspace.config.exists():
        workspace.keep(config)
    with open_tracker(config, workspace) as tracker:
        networks, trained = train_plan(setup, plan, tracker)
        files = write_baselines(trained, workspace.report)
        for file in files:
            tracker.artifact(file, "report")
        for network in reversed(networks):  # the pick last: what is dominated is never promoted
            if network.architecture:
                register(config, network, tracker)
    console.print(baselines_table(trained))
    if front:
        console.print(_foretold(trained, workspace, space), highlight=False)
    better = better_plain(networks[0], comparable(networks[0]))
    console.print(verdict(networks[0], better), soft_wrap=True, highlight=False, markup=False)
    return trained


def _foretold(networks: Sequence[Trained], workspace: Workspace, space: SearchSpace) -> str:
    """Say how well what the search knew orders the networks that are trained now."""
    table = workspace.report / VERIFIED_TABLE
    known = read_records(table if table.exists() else workspace.report / "front.csv")
    if table.exists():  # those that were dropped were trained for fewer epochs
        known = [record for record in known if record.state == "verified"]
    count, orders = retrained_orders(networks, known, space)
    if not orders:
        return "An order is told of three networks or more."
    taus = ", ".join(f"{o.predictor} {o} ({interval_text(o.interval)})" for o in orders)
    return (
        f"Order of {count} networks by test accuracy, Kendall's tau and 95 % interval of what the "
        f"search knew: {taus}."
    )


def train_plan(
    setup: Setup, plan: Sequence[Planned], tracker: Tracker | None = None
) -> tuple[list[Retrained], list[Trained]]:
    """Train what is missing of a plan, and make each network's best seed ready to ship."""
    tasks = {planned.task.folder.name: planned.task for planned in plan}
    for task in tasks.values():
        write_task(setup, task)
    trainings = SeedTrainings(setup, list(tasks.values()))
    keys = [(folder, str(seed)) for seed in setup.seeds for folder in tasks]
    before = sum(map(trainings.finished, keys))
    done = itertools.count(1)

    def on_done(key: Architecture, metrics: Mapping[str, float]) -> None:
        folder, seed = key
        if tracker is not None:
            _track(setup, tasks[folder], int(seed), dict(metrics), tracker)
        number = next(done)
        if number > before:
            advance(number, f"{folder}, seed {seed}: {metrics['accuracy']:.2f} %")

    with step_progress("Networks trained", len(keys), before) as advance:
        train_all(trainings, keys, on_done)
    networks = [finish_retraining(setup, task, tracker) for task in tasks.values()]
    return networks, [_trained(setup, t, n) for t, n in zip(tasks.values(), networks)]


def _say_what_is_coming(setup: Setup, plan: Sequence[Planned]) -> None:
    planned_names = {planned.task.name for planned in plan if planned.task.baseline == "family"}
    for name in families_of(setup.space) if planned_names else ():
        if name not in planned_names:
            console.print(f"{name}: the pick is the plain network of its latency.")
    for planned in plan:
        matched = planned.task.baseline in ("family", "random")
        if matched and abs(planned.distance) > TOLERANCE:
            console.print(
                f"{planned.task.name}: nothing within {TOLERANCE:.0%} was found; this misses the "
                f"latency by {planned.distance:+.1%}.",
                highlight=False,
            )
    count, seeds = len(plan), len(setup.seeds)
    console.print(
        f"{count} networks, {seeds} seed{'s' if seeds > 1 else ''} each: about "
        f"{_minutes(remaining_seconds(setup, plan))} of training, and then export and timing.",
        highlight=False,
    )


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _track(
    setup: Setup, task: Task, seed: int, metrics: dict[str, float], tracker: Tracker
) -> None:
    """Log a training that a worker did; the driver alone writes to MLflow."""
    if tracker.has_finished(run_name(task, seed)):
        return
    run = begin_run(setup, task, seed, tracker)
    for values in TrainingHistory(seed_folder(task, seed) / "history.json").entries:
        track_epoch(run, values["epoch"], values)
    track_result(run, task, metrics)


def _trained(setup: Setup, task: Task, network: Retrained) -> Trained:
    seeds = {seed: train_seed(setup, task, seed) for seed in setup.seeds}
    return Trained(
        name=task.name,
        kind=task.baseline or "pick",
        plain=network.plain,
        test={seed: metrics["accuracy"] for seed, metrics in seeds.items()},
        validation={seed: metrics["validation_accuracy"] for seed, metrics in seeds.items()},
        latency_ms=network.metrics.get("latency_ms"),
        params=network.metrics["params"],
        macs=network.metrics["macs"],
        architecture=network.architecture,
    )
