"""How MLflow's pages show our experiments: of what kind they are, and a table's first columns.

MLflow 3 opens an experiment as one of language models, with traces and judges, unless the address
says otherwise; the tag of its kind alone doesn't do it in 3.17. The view is what its button "Share"
would store: a tag of the experiment, named by the address.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import urlencode

VIEW = "mlflow.sharedViewState."  # begins the name of the tag that holds a view
KEY = "evolute"
COLUMNS = (
    "tags.state", "metrics.accuracy", "metrics.cross_entropy", "metrics.latency_ms",
    "metrics.params", "metrics.macs",
)  # fmt: skip
COMPARED = ("latency_ms", "params", "accuracy")  # of networks; the last one is their colour
NOTE = "mlflow.note.content"  # the tag that is shown as the description of an experiment or a run

EXPERIMENT_NOTE = """Searches for hybrids of convolution and involution, made with Evolute.

- One run is one search; it opens to its children: `supernet`, `trial`, `verify`, `rank`, `retrain`.
- The description of a search is its result: the front, and the commands that go on from there.
- Accuracies of a `trial` are read with inherited weights, those of `verify` and `retrain` are of
  networks that were trained alone.
"""


def experiment_tags() -> dict[str, str]:
    """Return the tags by which the pages know what the experiment is and how to show its runs."""
    return {
        "mlflow.experimentKind": "custom_model_development",
        NOTE: EXPERIMENT_NOTE,
        f"{VIEW}{KEY}": json.dumps(_table()),
    }


def runs_page(experiment_id: str) -> str:
    """Return the path of the table of runs, the most accurate first.

    More of a view in the address, such as an order, would make MLflow leave out the one by its key.
    """
    return _runs_page(experiment_id, KEY)


def comparison_tag(
    parent: str, kind: str, layers: Sequence[str], metrics: Sequence[str]
) -> tuple[str, str]:
    """Return the tag of an experiment by which it shows the front of a search as one chart.

    Args:
        parent: The search's run.
        kind: What its members are: ``verify`` or ``trial``.
        layers: The first axes, in order of the network.
        metrics: The other axes; the last one colours the lines.
    """
    members = {
        "tags.front": "!= ''",
        "tags.`evolute.kind`": f"= '{kind}'",
        "tags.`mlflow.parentRunId`": f"= '{parent}'",
    }
    chart = {
        "type": "PARALLEL",
        "uuid": "front",
        "metricSectionId": "front",
        "selectedParams": list(layers),
        "selectedMetrics": list(metrics),
        "showAllRuns": False,
        "deleted": False,
        "isGenerated": False,
    }
    section = {
        "uuid": "front",
        "name": "The front",
        "display": True,
        "isReordered": True,
        "columns": 1,
        "cardHeight": 480,
    }
    view = {
        **_table(),
        "searchFilter": " and ".join(f"{key} {value}" for key, value in members.items()),
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": [chart],
        "compareRunSections": [section],
        "isAccordionReordered": True,
    }
    return f"{VIEW}{_comparison_key(parent)}", json.dumps(view)


def comparison_page(experiment_id: str, parent: str) -> str:
    """Return the path of the page that compares the front of a search, by the search's run."""
    return _runs_page(experiment_id, _comparison_key(parent), compareRunsMode="CHART")


def _comparison_key(parent: str) -> str:
    return f"{KEY}-front-{parent[:8]}"


def _runs_page(experiment_id: str, key: str, **query: str) -> str:
    query = {"workflowType": "machine_learning", "viewStateShareKey": key, **query}
    return f"/#/experiments/{experiment_id}/runs?{urlencode(query)}"


def _table() -> dict[str, object]:
    """Return the part of a view that is the table: its columns and its order."""
    return {
        "selectedColumns": [_column(name) for name in COLUMNS],
        "orderByKey": _column("metrics.accuracy"),
        "orderByAsc": False,
    }


def _column(name: str) -> str:
    kind, _, key = name.partition(".")
    return f"{kind}.`{key}`"
