"""Which study a search goes on with, what its values depend on, and what other studies know.

A study compares values only if they are of one supernet, one device and the same images; it stores
what they depend on, wherever it is kept. Further studies on the same supernet (``--study NAME``)
share with it what is known of an architecture, and the unit of latency.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs import Config, UserError, config_to_dict
from evaluators import TooNoisy
from evaluators.metric import AT, METRICS, TIMED
from experiments.console import busy
from experiments.evaluator import latency_fingerprint
from experiments.settings import goal_of
from experiments.targets import (
    fingerprint_on,
    on_this_host,
    targets_reachable,
    unit_on,
    used_targets,
)
from experiments.workspace import Workspace, what_matters
from search.storage import storage_url, write
from search.study import StoredStudy, stored_studies
from search.trials import SearchResult, TrialRecord
from search_space import Architecture, SearchSpace

Known = Mapping[Architecture, Mapping[str, float]]

ASIDE = " (supernet "  # between the name of a study that was put aside and the weights' hash
TARGETS = "targets"  # the fingerprint of each target device, in a study that has any
VALUES = ("fingerprint", "seed", "data", "evaluate", "supernet")  # what metrics depend on


@dataclass(frozen=True)
class StudyPlan:
    """A study that may begin or go on.

    Attributes:
        url: Where it is stored.
        context: What it refuses to go on without: `VALUES`, the sampler, the unit of latency.
        known: Metrics of architectures, from other studies of the same values.
        aside: The new name of a study of another supernet, which makes room for this one; else "".
        rescored: Architectures of studies that were put aside and are not in this one yet.
    """

    name: str
    url: str
    context: dict[str, Any]
    known: Known
    aside: str = ""
    rescored: tuple[Architecture, ...] = ()


def check_study(config: Config, workspace: Workspace) -> None:
    """Refuse a search that cannot go on in its study; nothing is measured, trained or written.

    Raises:
        UserError: The study is of another search; the message names what differs and a way.
    """
    _, own = _find_studies(config, workspace)
    if own is not None:
        _refuse_other(own, config, workspace)


def plan_study(config: Config, workspace: Workspace, rescore: bool = False) -> StudyPlan:
    """Return the study of a search; of a new one the unit of latency is measured, if it needs one.

    Nothing is written.

    Args:
        rescore: Where the study is of an earlier supernet, begin it anew with its architectures.

    Raises:
        UserError: The study is of another search, there is no supernet, or the device is too busy.
    """
    if not workspace.weights.exists():
        raise UserError(
            f"{workspace.weights}: there is no trained supernet; run `evolute train` first"
        )
    studies, own = _find_studies(config, workspace)
    values = _values(config, workspace)
    old = None
    if own is not None:
        old = own if rescore and _is_of_other_supernet(own, values) else None
        _refuse_other(own, config, workspace, () if old is None else ("supernet",))
    alike = _alike(studies, config, values)
    # an older study's unit goes on being that of all studies whose values it shares
    units = (study.context.get("reference_ms") for study in ([own] if own else alike))
    reference_ms = next(filter(None, units), None)
    if reference_ms is None and "" in _timed(config):
        reference_ms = _measure_unit(config, "")
    context = {**values, "sampler": config.search.sampler, "reference_ms": reference_ms}
    if TARGETS in values:
        context["units"] = _units(config, [own] if own else alike)
    name = workspace.study_name(config.name)
    return StudyPlan(
        name,
        _url(config, workspace),
        context,
        _known(alike),
        aside="" if old is None else f"{name}{ASIDE}{old.context['supernet'][:8]})",
        rescored=_to_rescore(studies, name, old, own),
    )


def _is_of_other_supernet(own: StoredStudy, values: Mapping[str, Any]) -> bool:
    return own.context.get("supernet") != values["supernet"]


def _to_rescore(
    studies: list[StoredStudy], name: str, old: StoredStudy | None, own: StoredStudy | None
) -> tuple[Architecture, ...]:
    """Return what studies that were put aside know and the present one does not, in their order."""
    aside = [study for study in studies if study.name.startswith(f"{name}{ASIDE}")]
    aside += [] if old is None else [old]
    scored = {r.architecture for r in own.records} if own is not None and old is None else set()
    known = dict.fromkeys(record.architecture for study in aside for record in study.records)
    return tuple(architecture for architecture in known if architecture not in scored)


def known_metrics(config: Config, workspace: Workspace) -> Known:
    """Return what all studies of a work directory know that share the values of a configuration.

    Latencies are those of this machine.
    """
    studies, _ = _find_studies(config, workspace)
    return _known(_alike(studies, config, _values(on_this_host(config), workspace)))


def values_key(config: Config, workspace: Workspace, keys: Sequence[str] = VALUES) -> str:
    """Hash what metrics of the architectures of a space depend on, or some of it."""
    plugins = [Path(plugin).read_text(encoding="utf-8") for plugin in config.plugins]
    here = _values(on_this_host(config), workspace)
    values = {key: v for key, v in here.items() if key in keys}
    parts = [values, config_to_dict(config.space), plugins]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _alike(
    studies: list[StoredStudy], config: Config, values: Mapping[str, Any]
) -> list[StoredStudy]:
    """Return the studies of the space of a configuration, and of the same `VALUES`."""
    space = SearchSpace(config.space, config.plugins).to_dict()["space"]
    return [
        study
        for study in studies
        if study.settings["space"] == space
        and all(study.context.get(key) == values.get(key) for key in VALUES)
        and _same_targets(study.context.get(TARGETS, {}), values.get(TARGETS, {}))
    ]


def _same_targets(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Return whether no target of two studies is another device in each; they may have others."""
    return all(known[name] == wanted[name] for name in known.keys() & wanted.keys())


def _units(config: Config, studies: Sequence[StoredStudy]) -> dict[str, float]:
    """Return the unit of each target, measured where no study has one."""
    known = [study.context.get("units", {}) for study in studies]
    units = {}
    for target in used_targets(config):
        kept = next(filter(None, (each.get(target) for each in known)), None)
        units[target] = _measure_unit(config, target) if kept is None else kept
    return units


def _known(studies: list[StoredStudy]) -> dict[Architecture, dict[str, float]]:
    known: dict[Architecture, dict[str, float]] = {}
    for study in studies:
        for record in study.records:
            known.setdefault(record.architecture, {}).update(_read_in_full(record))
    return known


def _read_in_full(record: TrialRecord) -> dict[str, float]:
    """Return the metrics of a record without what it was stopped at."""
    if record.state != "stopped":
        return record.metrics
    raced = [metric for metric in METRICS.values() if metric.race is not None]
    partly = {name for metric in raced for name in (metric.name, *metric.companions)}
    return {name: value for name, value in record.metrics.items() if name not in partly}


def unit_of(config: Config, workspace: Workspace) -> float | None:
    """Return the unit in which the studies of a work directory take latencies on this device.

    None where no study has one.
    """
    fingerprint = latency_fingerprint(config)
    studies, _ = _find_studies(config, workspace)
    alike = (study.context for study in studies if study.context.get("fingerprint") == fingerprint)
    return next(filter(None, (context.get("reference_ms") for context in alike)), None)


def _find_studies(
    config: Config, workspace: Workspace
) -> tuple[list[StoredStudy], StoredStudy | None]:
    """Return all studies of the storage, and that of this search if it has begun."""
    studies = stored_studies(_url(config, workspace))
    name = workspace.study_name(config.name)
    return studies, next((study for study in studies if study.name == name), None)


def _refuse_other(
    own: StoredStudy, config: Config, workspace: Workspace, allowed: Sequence[str] = ()
) -> None:
    context = {
        **own.context,  # the unit is its own, and so is a supernet that is still to be trained
        **_values(config, workspace),
        "sampler": config.search.sampler,
        **{key: own.context[key] for key in allowed},
    }
    space = SearchSpace(config.space, config.plugins)
    if difference := own.difference(space, goal_of(config), context):
        if difference.startswith("supernet "):
            raise UserError(
                f"the study {own.name!r} was scored with other weights than those of "
                f"{workspace.weights}. Put the old weights back, search in another directory with "
                "--out, or have its architectures evaluated anew: evolute search ... --rescore"
            )
        raise UserError(
            f"the study {own.name!r} is of another search: {difference}. Take the old value, or "
            "begin a new study on the same supernet; nothing is trained again for it, and metrics "
            "that are known and still hold are not measured again: evolute search ... --study NAME"
        )


def _values(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Return `VALUES` as far as they are there: `supernet`, a hash, once it is trained."""
    targets = used_targets(config)
    with targets_reachable(config):
        values: dict[str, Any] = {"fingerprint": fingerprint_on(config, "")}
        if targets:
            values[TARGETS] = {name: fingerprint_on(config, name) for name in targets}
    values |= {key: value for key, value in what_matters(config).items() if key in VALUES}
    if workspace.weights.exists():
        with workspace.weights.open("rb") as file:
            values["supernet"] = hashlib.file_digest(file, "sha256").hexdigest()
    return values


def note_for_dashboard(result: SearchResult, text: str) -> None:
    """Make a text in Markdown the note of the study, where optuna-dashboard is installed."""
    if importlib.util.find_spec("optuna_dashboard") is None:
        return
    from optuna_dashboard import save_note

    write(result.storage, lambda: save_note(result.study, text))


def _url(config: Config, workspace: Workspace) -> str:
    url = storage_url(config.search.storage or workspace.study)
    assert url is not None
    return url


def _timed(config: Config) -> set[str]:
    """Return where something is timed: the names of targets, "" for what `latency` says."""
    timed = [name for name in goal_of(config).metrics if METRICS[name].effort == TIMED]
    return {name.partition(AT)[2] for name in timed}


def _measure_unit(config: Config, target: str) -> float:
    where = f" on {target}" if target else ""
    try:
        with busy(f"Measuring the reference network{where} ..."):
            return unit_on(config, target)
    except TooNoisy as noise:
        raise UserError(
            f"the reference network could not be measured: {noise}. Stop what else runs on the "
            "device, or raise latency.max_spread"
        ) from noise
