"""The Optuna study that holds everything a search knows, and from which it resumes.

What is saved: one finished Optuna trial per evaluated architecture (its choices as parameters,
objectives as values, bounds as constraints; metrics, state, message and seconds as user
attributes), written in one transaction; and, as user attributes of the study, the settings and the
context that must not change, the reference point of the hypervolume, second measurements (a
finished trial of Optuna's takes no more attributes), and the architectures being evaluated right
now. So a killed driver leaves no half-written trial, and the next one knows what to redo.
It is an ordinary study: `optuna.load_study` and optuna-dashboard open it.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from configs.differences import first_difference
from configs.errors import UserError
from configs.sqlite import SQLITE
from search.goal import Goal
from search.patience import patiently
from search.storage import StudyStorage, file_of, open_storage, write
from search.trials import TrialRecord

if TYPE_CHECKING:
    from search_space import Architecture, ChoiceSpace

OPTUNA_STATES = {
    "complete": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "infeasible": TrialState.PRUNED,
}  # others: FAIL
AGAIN = "again "  # before a trial's number: the attribute with its second measurement

Choice = TypeVar("Choice")


def parameters_of(choices: Sequence[Choice]) -> dict[str, Choice]:
    """Return one Optuna parameter per layer: layer_00, layer_01, ..."""
    return {f"layer_{index:02d}": choice for index, choice in enumerate(choices)}


@dataclass(frozen=True)
class StoredStudy:
    """A study as it is in a storage.

    Attributes:
        settings: Objectives, constraints and space, as `study_settings` gives them.
        context: What the values depend on besides.
        records: Finished evaluations, in the order of completion.
    """

    name: str
    settings: dict[str, Any]
    context: dict[str, Any]
    records: list[TrialRecord]

    def difference(self, space: ChoiceSpace, goal: Goal, context: Mapping[str, Any]) -> str:
        """Name the first thing in which another search differs; "" where it may go on here."""
        wanted = study_settings(space, goal)
        return first_difference(self.settings, wanted) or first_difference(
            self.context, _as_json(context)
        )


def stored_studies(url: str | None) -> list[StoredStudy]:
    """Return all studies of a storage that were made by Evolute; nothing is created or changed.

    Raises:
        UserError: The storage can't be opened.
    """
    if url is None or (url.startswith(SQLITE) and not Path(url.removeprefix(SQLITE)).exists()):
        return []
    return patiently(file_of(url), lambda: _read_studies(open_storage(url)))


def _read_studies(storage: Any) -> list[StoredStudy]:
    summaries = optuna.get_all_study_summaries(storage, include_best_trial=False)
    return [
        _stored(optuna.load_study(study_name=summary.study_name, storage=storage))
        for summary in summaries
        if "settings" in summary.user_attrs
    ]


def store_again(url: str, name: str, number: int, metrics: Mapping[str, float]) -> None:
    """Keep the second measurement of a trial in its study."""
    storage = open_storage(url)

    def store() -> None:
        study = optuna.load_study(study_name=name, storage=storage)
        study.set_user_attr(f"{AGAIN}{number}", dict(metrics))

    write(url, store)


def set_aside(url: str, name: str, new_name: str) -> None:
    """Give a study another name; interrupted in between, it is done again."""
    storage = open_storage(url)
    if new_name in optuna.get_all_study_names(storage):
        optuna.delete_study(study_name=new_name, storage=storage)
    optuna.copy_study(
        from_study_name=name, from_storage=storage, to_storage=storage, to_study_name=new_name
    )
    optuna.delete_study(study_name=name, storage=storage)


class SearchStudy:
    """A search's study, opened or created.

    Attributes:
        records: Finished evaluations, in the order of completion.
        interrupted: Architectures that the last driver was evaluating when it ended.
        reference: The reference point of the hypervolume, as losses; None until it is set.

    Raises:
        UserError: The storage can't be opened, or its study is of another search.
    """

    def __init__(
        self,
        url: str | None,
        name: str,
        space: ChoiceSpace,
        goal: Goal,
        context: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.url, self.name, self._goal = url, name, goal
        self._distributions: dict[str, BaseDistribution] = parameters_of(
            [CategoricalDistribution(layer.candidates) for layer in space.layers]
        )
        self._storage = open_storage(url)
        self._study = write(url, lambda: self._open_study(space, context))
        self.records = _stored(self._study).records
        finished = {record.architecture for record in self.records}
        self.reference: list[float] | None = self._study.user_attrs.get("reference")
        running = [tuple(a) for a in self._study.user_attrs.get("running", [])]
        self.interrupted = [a for a in running if a not in finished]

    def set_reference(self, losses: Iterable[float]) -> None:
        """Fix the reference point of the hypervolume."""
        self.reference = [float(loss) for loss in losses]
        self._note("reference", self.reference)

    def set_running(self, architectures: Iterable[Architecture]) -> None:
        """Note what is being evaluated, for the driver after this one."""
        self._note("running", [list(a) for a in architectures])

    def add(self, record: TrialRecord) -> TrialRecord:
        """Write a finished evaluation, atomically, and return its record with its number."""
        metrics = record.metrics
        bounds = {
            name: metrics[name] - bound
            for name, bound in self._goal.bounds.items()
            if name in metrics
        }
        complete = record.state == "complete"
        trial = create_trial(
            state=OPTUNA_STATES.get(record.state, TrialState.FAIL),
            values=[metrics[name] for name in self._goal.objectives] if complete else None,
            params=parameters_of(record.architecture),
            distributions=self._distributions,
            # optuna-dashboard doesn't show constraints yet, hence their copy here.
            user_attrs={
                "state": record.state,
                "metrics": metrics,
                "outcome": {
                    "message": record.message,
                    "seconds": record.seconds,
                    "constraints": bounds,
                },
            },
            constraints=bounds,
        )
        trial.datetime_complete = datetime.datetime.now()
        trial.datetime_start = trial.datetime_complete - datetime.timedelta(seconds=record.seconds)
        number = write(self.url, lambda: self._add(trial))
        self.records.append(dataclasses.replace(record, number=number))
        return self.records[-1]

    def _add(self, trial: FrozenTrial) -> int:
        if isinstance(self._storage, StudyStorage):
            return self._storage.add(self._study_id, trial)
        trial_id = self._storage.create_new_trial(self._study_id, template_trial=trial)
        return self._storage.get_trial_number_from_id(trial_id)

    def _note(self, key: str, value: Any) -> None:
        write(self.url, lambda: self._study.set_user_attr(key, value))

    def _open_study(self, space: ChoiceSpace, context: Mapping[str, Any]) -> optuna.Study:
        study = optuna.create_study(
            storage=self._storage,
            study_name=self.name,
            directions=[*self._goal.objectives.values()],  # type: ignore[list-item]
            sampler=optuna.samplers.RandomSampler(),  # unused: the driver proposes
            load_if_exists=True,
        )
        self._study_id = self._storage.get_study_id_from_name(self.name)
        if "settings" not in study.user_attrs:
            if study.trials:
                raise UserError(
                    f"study {self.name!r} in {self.url} was not made by Evolute; "
                    "choose another study name or storage"
                )
            study.set_user_attr("settings", study_settings(space, self._goal))
            study.set_user_attr("context", _as_json(context))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # set_metric_names is experimental
                study.set_metric_names(list(self._goal.objectives))
        elif difference := _stored(study).difference(space, self._goal, context):
            raise UserError(
                f"study {self.name!r} in {self.url} is of another search: {difference}; "
                "set it back, or choose another study name or storage"
            )
        return study


def study_settings(space: ChoiceSpace, goal: Goal) -> dict[str, Any]:
    """Return what must stay the same for trials to be comparable, as JSON would give it back."""
    return _as_json(
        {
            # Pairs, because the order of the objectives is the order of the study's values.
            "objectives": [list(pair) for pair in goal.objectives.items()],
            "constraints": dict(goal.bounds),
            "space": space.to_dict()["space"],  # where its plugins lie does not matter
        }
    )


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(dict(values)))


def _stored(study: optuna.Study) -> StoredStudy:
    attributes = study.user_attrs
    again = {
        int(key.removeprefix(AGAIN)): metrics
        for key, metrics in attributes.items()
        if key.startswith(AGAIN)
    }
    trials = [trial for trial in study.trials if "state" in trial.user_attrs]
    return StoredStudy(
        name=study.study_name,
        settings=attributes["settings"],
        context=attributes.get("context", {}),
        records=[_record(trial, again.get(trial.number, {})) for trial in trials],
    )


def _record(trial: FrozenTrial, again: dict[str, float]) -> TrialRecord:
    attributes = trial.user_attrs
    return TrialRecord(
        number=trial.number,
        architecture=tuple(trial.params[name] for name in parameters_of(range(len(trial.params)))),
        metrics=attributes["metrics"],
        state=attributes["state"],
        message=attributes["outcome"]["message"],
        seconds=attributes["outcome"]["seconds"],
        again=again,
    )
