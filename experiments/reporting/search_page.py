"""The page of a search: who won and why, in one HTML file that needs no network and no server.

Its picture and its table are alive (`templates/search.js`); all other sections are written here.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from evaluators.metric import METRICS, by_registration, describe_metric
from experiments.reporting.account import Account
from experiments.reporting.choices import choice_effects, layer_importances
from experiments.reporting.colours import colours_of, ink_on
from experiments.reporting.front import cost_of
from experiments.reporting.orders import interval_text, verified_orders
from experiments.reporting.pages import picture, table, write_page
from experiments.reporting.plots import front_axes
from experiments.reporting.verified import VerifiedNetwork, as_verified
from search.space_profile import uniform_architectures
from search.trials import INHERITED, SearchResult, TrialRecord
from search_space import ChoiceSpace

NO_EFFECT = "–"


def search_html(
    result: SearchResult,
    space: ChoiceSpace,
    path: Path,
    account: Account | None = None,
    networks: Sequence[VerifiedNetwork] = (),
    pictures: Mapping[str, Path] | None = None,
) -> Path:
    """Write the page. Whatever the texts contain, nothing in them is run or shown as markup.

    Args:
        account: What is said above and below the numbers.
        networks: All that were trained alone; the front is then theirs.
        pictures: By their caption, of the course of the search and of what it learnt.
    """
    account = account or Account()
    shown = as_verified(result, networks) if networks else result
    parts = {
        "VERDICT": _verdict(account),
        "SECTIONS": "".join(
            [
                _choices(result, space),
                _section("The search", *(picture(f, text) for text, f in (pictures or {}).items())),
                _verified(networks, space),
                _training(account),
                _measured(result, account),
                _next(account),
            ]
        ),
    }
    return write_page("search", result.study_name, _data(shown, space, account), path, parts)


def _section(title: str, *content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(content)}</section>" if content else ""


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _verdict(account: Account) -> str:
    first = f'<p class="verdict">{escape(account.verdict)}</p>' if account.verdict else ""
    return first + "".join(map(_paragraph, account.said))


def _choices(result: SearchResult, space: ChoiceSpace) -> str:
    """What each candidate adds in each layer, and how much of the variance is a layer's."""
    every = choice_effects(
        space, result.trials, by_registration({"accuracy", *result.goal.metrics})
    )
    if not every:
        return ""
    text = (
        "What a candidate adds in a layer over the mean of the layer's candidates, ± a standard "
        f"error: each metric of {len(result.trials)} trials as a sum over the layers. Accuracies "
        "are read with inherited weights. Importance is the layer's share in the variance "
        "(fANOVA)."
    )
    tables = []
    for metric, effects in every.items():
        described = describe_metric(metric)
        shares = layer_importances(space, result.trials, metric)
        names = list(dict.fromkeys(name for layer in space.layers for name in layer.candidates))
        sizes = [abs(value) for layer in effects for value, _ in layer.values()]
        most = max(sizes) or 1.0
        good = 1 if described.direction == "maximize" else -1
        rows = []
        for index, layer in enumerate(effects):
            head = f"{index} (stage {space.layers[index].stage})"
            share = NO_EFFECT if shares is None else f"{shares[index]:.0%}"
            cells = [_effect(layer.get(name), good / most) for name in names]
            rows.append([escape(head), share, *cells])
        heads = ["layer", "importance", *names]
        tables.append(f"<h3>{escape(described.title)}</h3>" + table(heads, rows, "effects"))
    return _section("What each choice brings and costs", _paragraph(text), *tables)


def _effect(effect: tuple[float, float] | None, scale: float) -> str:
    """A cell: signed, blue where it is better, orange where it is worse, pale where it is small."""
    if effect is None:
        return ""
    value, error = effect
    share = value * scale
    hue = "0 114 178" if share > 0 else "213 94 0"
    style = f"background: rgb({hue} / {min(abs(share), 1) * 0.5:.2f})"
    return f'<span class="cell" style="{style}">{value:+.3g} <small>± {error:.1g}</small></span>'


def _verified(networks: Sequence[VerifiedNetwork], space: ChoiceSpace) -> str:
    if not networks:
        return ""
    cost = cost_of([n.reported for n in networks if n.finished])
    names = [name for name in ("accuracy", f"{INHERITED}accuracy", cost) if name is not None]
    heads = ["state", "plain", *(_title(name) for name in names), "architecture"]
    rows = []
    for network in networks:
        record = network.reported
        values = [_with_error(name, record) for name in names]
        kind = "plain" if network.plain else ""
        rows.append([network.state, kind, *values, escape(" ".join(record.architecture))])
    content = [
        _paragraph(
            "Trained alone, in rungs of ever more epochs. A rung selects by one half of the "
            "validation images; the accuracy is that of the other half. ± is a standard error."
        ),
        table(heads, rows),
    ]
    orders = verified_orders([n.reported for n in networks if n.finished], space)
    if orders:
        lines = [[escape(o.predictor), str(o), interval_text(o.interval)] for o in orders]
        content += [
            _paragraph("How far what was known before orders those that were trained to the end:"),
            table(["predictor", "Kendall's tau", "95 % interval"], lines),
        ]
    return _section("Verification", *content)


def _title(name: str) -> str:
    title = describe_metric(name.removeprefix(INHERITED)).title
    return f"inherited {title}" if name.startswith(INHERITED) else title


def _with_error(name: str, record: TrialRecord) -> str:
    if name not in record.metrics:
        return ""
    inherited = name.startswith(INHERITED)
    values = {k.removeprefix(INHERITED): v for k, v in record.metrics.items()
              if k.startswith(INHERITED) == inherited}  # fmt: skip
    metric = describe_metric(name.removeprefix(INHERITED))
    text, error = metric.write(record.metrics[name]), metric.error(values)
    return text if error is None or metric.name != "accuracy" else f"{text} ± {error:.1f}"


def _training(account: Account) -> str:
    if account.curves is None or not account.curves.exists():
        return ""
    return _section("The supernet's training", picture(account.curves, "Curves of its training"))


def _measured(result: SearchResult, account: Account) -> str:
    states = Counter(record.state for record in result.trials)
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    lines = [f"{len(result.trials)} trials: {counts}."]
    if account.measured_on:
        lines.append(f"Latencies were measured on {account.measured_on}.")
    spreads = [r.metrics["latency_spread"] for r in result.trials if "latency_spread" in r.metrics]
    if spreads:
        lines.append(
            "The calls of a measurement scatter by "
            f"{statistics.median(spreads):.0%} (interquartile range over median, median of trials)."
        )
    return _section("How it was measured", _paragraph(" ".join(lines)))


def _next(account: Account) -> str:
    return _section(
        "How to go on",
        _paragraph("Train a member of the front from scratch, beside its baselines:"),
        f"<pre><code>{escape(account.retrain('INDEX'))}</code></pre>",
    )


def _data(result: SearchResult, space: ChoiceSpace, account: Account) -> dict[str, Any]:
    """What the script shows: every trial, the front's members as they were measured last."""
    places = {record.number: index for index, record in enumerate(result.front)}
    records = [
        result.front[places[record.number]] if record.number in places else record
        for record in result.trials
    ]
    x, y = front_axes(result.goal.objectives)
    if y == "cross_entropy" or (y != "accuracy" and _all_have(result.front, "accuracy")):
        y = "accuracy"
    found = {name for record in records for name in record.metrics}
    metrics = [n for n in by_registration(found) if n in METRICS or n in result.goal.metrics]
    metrics += [f"{INHERITED}{name}" for name in metrics if f"{INHERITED}{name}" in found]
    plain = set(uniform_architectures(space))
    return {
        "x": x,
        "y": y,
        "labels": {name: _title(name) for name in metrics},
        "metrics": metrics,
        "objectives": result.goal.objectives,
        "constraints": result.goal.bounds,
        "stages": [layer.stage for layer in space.layers],
        "colours": {name: [fill, ink_on(fill)] for name, fill in colours_of(space).items()},
        "retrain": account.retrain("@"),
        "trials": [
            {
                "number": record.number,
                "front": places.get(record.number),
                "state": record.state,
                "message": record.message,
                "plain": record.architecture in plain,
                "architecture": record.architecture,
                "metrics": {k: v for k, v in record.metrics.items() if math.isfinite(v)},
                "errors": _errors(record),
            }
            for record in records
        ],
    }


def _all_have(records: Sequence[TrialRecord], name: str) -> bool:
    return bool(records) and all(name in record.metrics for record in records)


def _errors(record: TrialRecord) -> dict[str, float]:
    """The standard errors that are known, such as that of an accuracy."""
    errors = {name: describe_metric(name).error(record.metrics) for name in record.metrics}
    return {name: e for name, e in errors.items() if e is not None and math.isfinite(e)}
