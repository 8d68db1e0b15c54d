"""How MLflow's pages show our experiments: of what kind they are, and a table's first columns.

MLflow 3 opens an experiment as one of language models, with traces and judges, unless the address
says otherwise; the tag of its kind alone doesn't do it in 3.17. The view is what its button "Share"
would store: a tag of the experiment, named by the address.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import quote, urlencode

KEY = "evolute"
COLUMNS = (
    "tags.state", "metrics.accuracy", "metrics.cross_entropy", "metrics.latency_ms",
    "metrics.params", "metrics.macs",
)  # fmt: skip
NOTE = "mlflow.note.content"  # the tag that is shown as the description of an experiment or a run

EXPERIMENT_NOTE = """Searches for hybrids of convolution and involution, made with Evolute.

- One run is one search; it opens to its children: `supernet`, `trial`, `verify`, `rank`, `retrain`.
- The description of a search is its result: the front, and the commands that go on from there.
- Accuracies of a `trial` are read with inherited weights, those of `verify` and `retrain` are of
  networks that were trained alone.
"""


def experiment_tags() -> dict[str, str]:
    """Return the tags by which the pages know what the experiment is and how to show its runs."""
    view = {
        "selectedColumns": [_column(name) for name in COLUMNS],
        "orderByKey": _column("metrics.accuracy"),
        "orderByAsc": False,
    }
    return {
        "mlflow.experimentKind": "custom_model_development",
        NOTE: EXPERIMENT_NOTE,
        f"mlflow.sharedViewState.{KEY}": json.dumps(view),
    }


def runs_page(experiment_id: str) -> str:
    """Return the path of the table of runs, the most accurate first.

    More of a view in the address, such as an order, would make MLflow leave out the one by its key.
    """
    query = {"workflowType": "machine_learning", "viewStateShareKey": KEY}
    return f"/#/experiments/{experiment_id}/runs?{urlencode(query)}"


def compare_page(experiment_id: str, runs: Sequence[str]) -> str:
    """Return the path of the page that compares runs, by their ids.

    MLflow 3.17 takes no choice of axes from the address: it opens with the first three parameters,
    so three layers, and one metric; the others are chosen beside the plot.
    """
    query = f"runs={json.dumps(list(runs))}&experiments={json.dumps([experiment_id])}"
    return f"/#/compare-runs?{quote(query, safe='=&')}&workflowType=machine_learning"


def _column(name: str) -> str:
    kind, _, key = name.partition(".")
    return f"{kind}.`{key}`"
