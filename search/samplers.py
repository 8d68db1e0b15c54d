"""How a search decides where to look: the samplers, each an object with two methods.

A new one is a class with `propose` and `learn` and one registration, here or in a user's own file::

    @register_sampler("greedy")
    class Greedy:
        def __init__(self, problem): ...  # space, goal, trials, seed and what is known

Any sampler of Optuna's (or of OptunaHub's) can be given to `run_search` as it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np
import optuna
from optuna.trial import TrialState

from configs.errors import UserError
from configs.registry import Registry
from search.problem import Problem
from search.study import parameters_of
from search.surrogate_sampler import SurrogateSampler
from search.trials import TrialRecord

if TYPE_CHECKING:
    from search_space import Architecture

RE_ASKS = 20  # how often Optuna may propose what is being evaluated right now


class Sampler(Protocol):
    """What a search asks where to look next."""

    def propose(self) -> Architecture:
        """Return the architecture to try next, in any form; repetitions are allowed.

        A repetition of what is finished costs nothing: the sampler learns its record once more and
        is asked again. One that keeps repeating itself is overruled by a small random change of a
        member of the front.
        """

    def learn(self, record: TrialRecord) -> None:
        """Take the record of an architecture in canonical form.

        Also of such that were not proposed by this sampler: starting points, and everything that
        was evaluated before a restart.
        """


MakeSampler = Callable[[Problem], Sampler]

SAMPLERS: Registry[MakeSampler] = Registry("sampler")
SAMPLERS.register("surrogate")(SurrogateSampler)


def register_sampler(name: str) -> Callable[[MakeSampler], MakeSampler]:
    """Return a decorator that makes a function of a `Problem` that returns a sampler available.

    Raises:
        UserError: Another sampler has that name already.
    """
    return SAMPLERS.register(name)


def make_sampler(sampler: str | optuna.samplers.BaseSampler, problem: Problem) -> Sampler:
    """Return the sampler of a name, or the one that rests on a given sampler of Optuna's.

    Args:
        sampler: A registered name, or an Optuna sampler, which brings its own seed.

    Raises:
        UserError: No sampler has that name; the message names the nearest.
    """
    if isinstance(sampler, str):
        return SAMPLERS[sampler](problem)
    if not isinstance(sampler, optuna.samplers.BaseSampler):
        raise UserError(f"sampler: {sampler!r} is neither a name nor an Optuna sampler")
    return OptunaSampler(problem, sampler)


def population_of(trials: int) -> int:
    """Return how many architectures a population-based sampler keeps, for a budget of trials."""
    return min(max(trials // 10, 10), 50)


class OptunaSampler:
    """A sampler of Optuna's, on a study of its own in memory, where a step costs a millisecond.

    Optuna is told infeasible trials in the form from which most of its samplers learn: as pruned,
    with their constraints.
    """

    def __init__(self, problem: Problem, sampler: optuna.samplers.BaseSampler) -> None:
        self._space, self._goal = problem.space, problem.goal
        directions = [*self._goal.objectives.values()]
        self._study = optuna.create_study(directions=directions, sampler=sampler)
        self._asked: dict[Architecture, optuna.Trial] = {}

    def propose(self) -> Architecture:
        for _ in range(RE_ASKS):
            trial = self._study.ask()
            architecture = self._space.canonical(self._suggest(trial))
            if architecture not in self._asked:
                self._asked[architecture] = trial
                break
            self._study.tell(trial, state=TrialState.FAIL)  # it is being evaluated right now
        return architecture

    def learn(self, record: TrialRecord) -> None:
        trial = self._asked.pop(record.architecture, None)
        if trial is None:
            trial = self._ask_for(record.architecture)
        if record.state in ("failed", "unmeasurable"):
            self._study.tell(trial, state=TrialState.FAIL)
            return
        for name, excess in self._goal.excesses(record.metrics).items():
            trial.set_constraint(name, excess)
        self._tell(trial, record)

    def _tell(self, trial: optuna.Trial, record: TrialRecord) -> None:
        if record.state == "complete":
            self._study.tell(trial, [record.metrics[name] for name in self._goal.objectives])
        else:
            self._study.tell(trial, state=TrialState.PRUNED)

    def _ask_for(self, architecture: Architecture) -> optuna.Trial:
        """Let the study propose this very architecture."""
        self._study.enqueue_trial(parameters_of(architecture))
        trial = self._study.ask()
        self._suggest(trial)
        return trial

    def _suggest(self, trial: optuna.Trial) -> Architecture:
        choices = parameters_of([layer.candidates for layer in self._space.layers])
        return tuple(trial.suggest_categorical(*choice) for choice in choices.items())


class NSGAII(OptunaSampler):
    """NSGA-II (https://doi.org/10.1109/4235.996017), which ignores pruned trials.

    It compares infeasible trials by their violation alone, so any number may take the place of
    what was not measured.
    """

    def _tell(self, trial: optuna.Trial, record: TrialRecord) -> None:
        self._study.tell(trial, [record.metrics.get(name, 0.0) for name in self._goal.objectives])

    def _ask_for(self, architecture: Architecture) -> optuna.Trial:
        self._study.enqueue_trial(parameters_of(architecture))
        trial = self._study.ask()
        # A trial joins the population only when it is sampled relative to the others.
        _ = trial.relative_params
        self._suggest(trial)
        return trial


@register_sampler("nsga2")
def nsga2(problem: Problem) -> Sampler:
    """NSGA-II with a population of a tenth of the budget."""
    population = population_of(problem.trials)
    sampler = optuna.samplers.NSGAIISampler(population_size=population, seed=problem.seed)
    return NSGAII(problem, sampler)


@register_sampler("tpe")
def tpe(problem: Problem) -> Sampler:
    """Multivariate TPE (https://arxiv.org/abs/2304.11127)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "multivariate is experimental", since 2020
        sampler = optuna.samplers.TPESampler(multivariate=True, seed=problem.seed)
    return OptunaSampler(problem, sampler)


@register_sampler("random")
def random(problem: Problem) -> Sampler:
    """Uniform draws: the control that every claim should be compared with."""
    return OptunaSampler(problem, optuna.samplers.RandomSampler(seed=problem.seed))


@register_sampler("evolution")
class Evolution:
    """Changes a random member of the front, or crosses two of them one time in four.

    It begins with a population of random architectures; where nothing is on the front, it changes
    the infeasible architecture with the smallest violation.
    """

    def __init__(self, problem: Problem) -> None:
        self._space, self._goal = problem.space, problem.goal
        self._rng = np.random.default_rng(problem.seed)
        self._to_begin = population_of(problem.trials)
        self._front: list[TrialRecord] = []
        self._nearest: list[TrialRecord] = []  # the infeasible one with the smallest violation
        self._seen: set[Architecture] = set()

    def propose(self) -> Architecture:
        proposed = self._space.sample(self._rng) if self._is_beginning() else self.vary()
        self._seen.add(proposed)
        return proposed

    def learn(self, record: TrialRecord) -> None:
        self._seen.add(record.architecture)
        self._front = self._goal.front([*self._front, record])
        if record.state == "infeasible":
            near = [*self._nearest, record]
            self._nearest = [min(near, key=lambda r: self._goal.violation(r.metrics))]

    def vary(self) -> Architecture:
        """Return a change of a front member, or a random architecture before there is one."""
        parents = [record.architecture for record in self._front or self._nearest]
        if not parents:
            return self._space.sample(self._rng)
        parent = parents[self._rng.integers(len(parents))]
        if len(parents) > 1 and self._rng.random() < 0.25:
            other = parents[self._rng.integers(len(parents))]
            return self._space.crossover(parent, other, self._rng)
        return self._space.mutate(parent, self._rng)

    def _is_beginning(self) -> bool:
        return len(self._seen) < self._to_begin
