"""How good are the networks that a sampler finds with 50, 100 and 200 evaluations?

    export OMP_NUM_THREADS=1
    python benchmarks/search_efficiency.py --quick    # a smoke test; writes nothing
    python benchmarks/search_efficiency.py            # hours, most of them Optuna's GPSampler's
    python benchmarks/search_efficiency.py --table    # the record as Markdown, and its picture
    python benchmarks/search_efficiency.py --fidelities    # see fidelities.py

front           NAS-Bench-Macro, accuracy against FLOPs
bound           the same, with a bound on params that a tenth of the networks keep
accuracy        NAS-Bench-Macro, accuracy alone
noisy front     a synthetic landscape of 46 layers, accuracy on 1,000 images against cost
noisy accuracy  the landscape, accuracy alone

Each search is `run_search` in this process; equal networks count once. What was evaluated is
judged by its noiseless values: a front by its share of the true front's hypervolume, a single
objective by its regret, the points that the best lies under the true best. Reference points are
85 % and the largest FLOPs that keep the bound, and 70 % (a typical architecture) and the largest
cost. The true front comes from the whole table of NAS-Bench-Macro, and from dynamic programming on
the landscape, of which each seed has its own. Seconds are the processor's, all threads together:
other programs on the machine don't count.

The record has a line a search. A search that it holds is not run again (`--again SAMPLER` runs
those of a sampler anew), and several processes may fill one record.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import fidelities
import filelock
import numpy as np
import optuna
from matplotlib.figure import Figure
from nas_bench_macro import DATA, NasBenchMacro, load_table
from rich.console import Console
from synthetic import TYPICAL, Landscape

from configs.atomic import write_atomically
from search import run_search
from search.front import hypervolume
from search.goal import Goal
from search.problem import Features, Problem
from search.samplers import NSGAII, Sampler, register_sampler
from search_space import Architecture, ChoiceSpace

EVALUATIONS = 200
EVERY = 10  # evaluations between two scores
SHOWN = (50, 100, 200)
SEEDS = 10
BOUND_SHARE = 0.1  # of the networks keep the bound
LEAST_ACCURACY = 85.0  # of the reference point on NAS-Bench-Macro
TOLD_ALL = "Optuna GP, told all"
WITH_FEATURES = "surrogate + features"
OURS = "surrogate"  # the sampler that is compared with the best of the others

SHARE, REGRET = "share of the true hypervolume", "regret (points)"

console = Console(width=100)
Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Task:
    """A search, and how it is judged.

    Attributes:
        evaluate: What the search reads.
        truth: The noiseless metrics of an architecture.
        known: The metrics that are exact functions of the architecture.
        best: The hypervolume of the true front; of a single objective its best value.
        reference: Where hypervolumes are measured from, as losses.
    """

    space: ChoiceSpace
    goal: Goal
    evaluate: Callable[[Architecture], Metrics]
    truth: Callable[[Architecture], Metrics]
    known: Mapping[str, Callable[[Architecture], float]]
    best: float
    reference: np.ndarray

    def score(self, architectures: Sequence[Architecture]) -> float:
        """Return the share of the true hypervolume, or the regret of a single objective."""
        metrics = [self.truth(architecture) for architecture in architectures]
        losses = self.goal.losses([each for each in metrics if not self.goal.exceeded(each)])
        if len(self.goal.objectives) > 1:
            return hypervolume(losses, self.reference) / self.best
        return self.best + float(losses.min())


def macro_task(objectives: dict[str, Any], bound: str | None, data: Path, seed: int) -> Task:
    """Return a task on NAS-Bench-Macro, the same for all seeds; a tenth keeps the bound."""
    table = load_table(data)
    bounds = {}
    if bound:
        bounds[bound] = float(np.quantile([each[bound] for each in table.values()], BOUND_SHARE))
    goal = Goal(objectives, bounds)
    losses = goal.losses([each for each in table.values() if not goal.exceeded(each)])
    reference = np.array([-LEAST_ACCURACY, *losses[:, 1:].max(axis=0)])
    return Task(
        space=NasBenchMacro(),
        goal=goal,
        evaluate=table.__getitem__,
        truth=table.__getitem__,
        known={
            name: lambda architecture, name=name: table[architecture][name]
            for name in goal.metrics
            if name != "accuracy"
        },
        best=hypervolume(losses, reference) if len(objectives) > 1 else -float(losses.min()),
        reference=reference,
    )


def landscape_task(objectives: dict[str, Any], seed: int) -> Task:
    """Return a task on the landscape of a seed."""
    landscape, goal = Landscape(seed), Goal(objectives)
    front = landscape.best_by_cost()
    reachable = np.flatnonzero(front)
    losses = np.column_stack([-front[reachable], reachable])
    reference = np.array([-TYPICAL, landscape.largest_cost])
    several = len(objectives) > 1
    return Task(
        space=landscape.space,
        goal=goal,
        evaluate=landscape.evaluate,
        truth=landscape.truth,
        known={"cost": landscape.cost} if several else {},
        best=hypervolume(losses, reference) if several else float(front.max()),
        reference=reference,
    )


def tasks_on(data: Path) -> dict[str, Callable[[int], Task]]:
    """Return all tasks by name, each made from a seed."""
    accuracy = {"accuracy": "maximize"}
    flops, cost = {**accuracy, "flops": "minimize"}, {**accuracy, "cost": "minimize"}
    return {
        "front": partial(macro_task, flops, None, data),
        "bound": partial(macro_task, flops, "params", data),
        "accuracy": partial(macro_task, accuracy, None, data),
        "noisy front": partial(landscape_task, cost),
        "noisy accuracy": partial(landscape_task, accuracy),
    }


@register_sampler(TOLD_ALL)
def gp_told_all(problem: Problem) -> Sampler:
    """Optuna's GPSampler, told the objectives of infeasible trials too, as Optuna's users do.

    `run_search` tells the samplers that it is given nothing but the constraints of such trials.
    """
    return NSGAII(problem, optuna.samplers.GPSampler(seed=problem.seed))


@dataclass(frozen=True)
class Entry:
    """A sampler in the comparison.

    Attributes:
        make: Returns what `run_search` takes as sampler, for a seed.
        seeds: Searches of a task on NAS-Bench-Macro.
        noisy: Searches of a task on the landscape.
        only: The one task that it is for; all unless given.
        features: Whether it is told features of the architectures: layers, params, FLOPs and a
            predicted NASWOT.
    """

    make: Callable[[int], str | optuna.samplers.BaseSampler]
    seeds: int = SEEDS
    noisy: int = SEEDS
    only: str | None = None
    features: bool = False

    def searches(self, task: str) -> int:
        """Return how often it searches a task, each time from another seed."""
        if self.only not in (None, task):
            return 0
        return self.noisy if task.startswith("noisy") else self.seeds


ENTRIES = {
    "surrogate": Entry(lambda seed: "surrogate"),
    WITH_FEATURES: Entry(lambda seed: "surrogate", only="front", features=True),
    "random": Entry(lambda seed: "random"),
    "evolution": Entry(lambda seed: "evolution"),
    "nsga2": Entry(lambda seed: "nsga2"),
    "tpe": Entry(lambda seed: "tpe"),
    "Optuna NSGA-II": Entry(lambda seed: optuna.samplers.NSGAIISampler(seed=seed)),
    "Optuna TPE": Entry(lambda seed: optuna.samplers.TPESampler(seed=seed)),
    # A proposal takes a second of the processor on 8 layers, and more on 46.
    "Optuna GP": Entry(lambda seed: optuna.samplers.GPSampler(seed=seed), seeds=5, noisy=3),
    TOLD_ALL: Entry(lambda seed: TOLD_ALL, seeds=5, only="bound"),
}

STYLES: dict[str, dict[str, Any]] = {  # hues of Okabe and Ito; Optuna's own are dashed
    "surrogate": {"color": "#d55e00", "lw": 3},
    WITH_FEATURES: {"color": "#d55e00", "lw": 3, "ls": ":"},
    "evolution": {"color": "#009e73"},
    "nsga2": {"color": "#0072b2"},
    "tpe": {"color": "#cc79a7"},
    "Optuna NSGA-II": {"color": "#0072b2", "ls": "--"},
    "Optuna TPE": {"color": "#cc79a7", "ls": "--"},
    "Optuna GP": {"color": "#000000", "ls": "--"},
    TOLD_ALL: {"color": "#000000", "ls": ":"},
    "random": {"color": "#9a9a9a"},
}


def run(
    task: Task,
    sampler: str | optuna.samplers.BaseSampler,
    seed: int,
    evaluations: int,
    features: Features | None = None,
) -> Any:
    """Search once; return the scores after every few evaluations, and seconds a proposal."""
    started = time.process_time()
    result = run_search(
        task.space,
        task.evaluate,
        task.goal.objectives,
        trials=evaluations,
        sampler=sampler,
        seed=seed,
        workers=0,
        storage=None,
        constraints=task.goal.bounds,
        known=task.known,
        features=features,
        progress=False,
    )
    seconds = (time.process_time() - started) / evaluations
    found = [record.architecture for record in result.trials]
    counts = range(EVERY, evaluations + 1, EVERY)
    scores = [round(task.score(found[:count]), 5) for count in counts]
    return {"scores": scores, "seconds": round(seconds, 4)}


class Record:
    """The searches that are done, in a JSON file with a line each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = filelock.FileLock(Path(tempfile.gettempdir()) / f"{path.name}.lock")

    def searches(self) -> list[dict[str, Any]]:
        return json.loads(self._path.read_text()) if self._path.exists() else []

    def holds(self, task: str, sampler: str, seed: int) -> bool:
        wanted = {"task": task, "sampler": sampler, "seed": seed}
        return any(wanted.items() <= search.items() for search in self.searches())

    def add(self, search: dict[str, Any]) -> None:
        self._change(lambda searches: [*searches, search])

    def forget(self, tasks: Sequence[str], samplers: Sequence[str]) -> None:
        self._change(
            lambda searches: [
                search
                for search in searches
                if search["task"] not in tasks or search["sampler"] not in samplers
            ]
        )

    def _change(self, change: Callable[[list[Any]], list[Any]]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            lines = ",\n".join(json.dumps(search) for search in change(self.searches()))
            write_atomically(self._path, f"[\n{lines}\n]\n")


def fill(
    record: Record, tasks: Mapping[str, Callable[[int], Task]], samplers: Sequence[str], data: Path
) -> None:
    """Run what the record lacks."""
    features = fidelities.free_features(fidelities.Truth(data))[fidelities.WITH_SCORE]
    for sampler in samplers:
        for seed in range(SEEDS):
            for name, make in tasks.items():
                entry = ENTRIES[sampler]
                if seed >= entry.searches(name) or record.holds(name, sampler, seed):
                    continue
                told = features if entry.features else None
                found = run(make(seed), entry.make(seed), seed, EVALUATIONS, told)
                record.add({"task": name, "sampler": sampler, "seed": seed, **found})
                console.print(
                    f"{name}, {sampler}, seed {seed}: {found['scores'][-1]:.3f}, "
                    f"{found['seconds']:.3f} s a proposal",
                    highlight=False,
                )


def table_of(searches: Sequence[Mapping[str, Any]]) -> str:
    """Return means and standard deviations over the seeds as a table in Markdown.

    Below each task, `surrogate` against the best of the others: the difference (positive is better)
    and its standard error; it loses where it is worse by more than that.
    """
    rows = [["task", "sampler", *map(str, SHOWN), "seeds", "s a proposal"]]
    rows.append(["---", "---", *["--:"] * (len(rows[0]) - 2)])
    for task in dict.fromkeys(search["task"] for search in searches):
        of_task = [search for search in searches if search["task"] == task]
        for sampler in sorted({s["sampler"] for s in of_task}, key=[*ENTRIES].index):
            own = [search for search in of_task if search["sampler"] == sampler]
            cells = [written(scores_after(own, count)) for count in SHOWN]
            seconds = np.mean([search["seconds"] for search in own])
            rows.append([task, sampler, *cells, str(len(own)), f"{seconds:.3f}"])
        verdicts = [verdict(of_task, count) for count in SHOWN]
        rows.append([task, f"*{OURS} - best other*", *verdicts, "", ""])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def scores_after(searches: Sequence[Mapping[str, Any]], count: int) -> np.ndarray:
    return np.array([search["scores"][count // EVERY - 1] for search in searches])


def written(scores: np.ndarray) -> str:
    spread = f" ± {scores.std(ddof=1):.3f}" if len(scores) > 1 else ""
    return f"{scores.mean():.3f}{spread}"


def verdict(searches: Sequence[Mapping[str, Any]], count: int) -> str:
    """Compare ours with the best of the others after some evaluations of one task."""
    sign = -1 if searches[0]["task"].endswith("accuracy") else 1
    found = {
        name: sign * scores
        for name in ENTRIES
        if name != WITH_FEATURES
        and len(scores := scores_after([s for s in searches if s["sampler"] == name], count)) > 1
    }
    ours = found.pop(OURS, None)
    if ours is None or not found:
        return ""
    best = max(found, key=lambda name: found[name].mean())
    difference = ours.mean() - found[best].mean()
    error = np.sqrt(sum(scores.var(ddof=1) / len(scores) for scores in (ours, found[best])))
    loses = ", **loses**" if difference < -error else ""
    return f"{difference:+.3f} ± {error:.3f} {best}{loses}"


def draw(searches: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw mean and standard deviation over the evaluations, a panel a task."""
    figure = Figure(figsize=(12, 7), dpi=150, layout="constrained")
    tasks = list(dict.fromkeys(search["task"] for search in searches))
    *panels, key = figure.subplots(2, 3).flat
    for task, axes in zip(tasks, panels):
        for sampler, style in STYLES.items():
            own = [s["scores"] for s in searches if (s["task"], s["sampler"]) == (task, sampler)]
            if own:
                counts, mean = EVERY * np.arange(1, len(own[0]) + 1), np.mean(own, axis=0)
                deviation = np.std(own, axis=0)
                axes.plot(counts, mean, label=sampler, **style)
                band = (mean - deviation, mean + deviation)
                axes.fill_between(counts, *band, color=style["color"], alpha=0.12, linewidth=0)
        regret = task.endswith("accuracy")
        axes.set(title=task, xlabel="evaluations", ylabel=REGRET if regret else SHARE)
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    key.axis("off")
    labelled = {line.get_label(): line for axes in panels for line in axes.get_lines()}
    key.legend(handles=labelled.values(), loc="center", frameon=False)
    data = io.BytesIO()
    figure.savefig(data, format="png")
    write_atomically(path, data.getvalue())


def smoke(tasks: Mapping[str, Callable[[int], Task]]) -> None:
    """Let each fast sampler search each task once, with 20 evaluations."""
    for sampler, entry in ENTRIES.items():
        if "GP" not in sampler:
            found = {name: run(make(0), entry.make(0), 0, 20) for name, make in tasks.items()}
            console.print(sampler, {name: search["scores"][-1] for name, search in found.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, 20 evaluations")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--fidelities", action="store_true", help="inherited and verified readings")
    parser.add_argument("--data", type=Path, default=DATA, help="NAS-Bench-Macro's JSON file")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="all unless given")
    parser.add_argument("--samplers", nargs="+", metavar="SAMPLER", default=[*ENTRIES])
    parser.add_argument("--again", nargs="+", metavar="SAMPLER", default=[])
    parser.add_argument("--out", type=Path, default=Path("docs/results/search_efficiency.json"))
    parser.add_argument("--picture", type=Path, default=Path("docs/images/search_efficiency.png"))
    arguments = parser.parse_args()
    tasks = tasks_on(arguments.data)
    tasks = {name: tasks[name] for name in arguments.tasks or tasks}
    if arguments.fidelities:
        console.print(fidelities.table(arguments.data))
        return
    if arguments.quick:
        smoke(tasks)
        return
    record = Record(arguments.out)
    record.forget([*tasks], arguments.again)
    if not arguments.table:
        fill(record, tasks, arguments.samplers, arguments.data)
    searches = [s for name in tasks for s in record.searches() if s["task"] == name]
    print(table_of(searches))
    draw(searches, arguments.picture)


if __name__ == "__main__":
    main()
