"""Tables in Markdown, for pages and for the descriptions that MLflow shows."""

from __future__ import annotations

from collections.abc import Sequence

from evaluators.metric import describe_metric, metrics_among
from experiments.reporting.baselines import DASH
from search.trials import TrialRecord

TEXTS = ("architecture", "kind", "layer", "network", "part", "predictor", "the pick")


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; the columns of texts are on the left, those of numbers on the right."""
    signs = ["---" if head in TEXTS else "---:" for head in heads]
    lines = [f"| {' | '.join(heads)} |", f"|{'|'.join(signs)}|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def front_markdown(front: Sequence[TrialRecord]) -> str:
    """Return a front as a table: its indexes, what is known of its members, their operators."""
    metrics = metrics_among(name for record in front for name in record.metrics)
    heads = ["index", *(metric.title for metric in metrics), "architecture"]
    rows = []
    for index, record in enumerate(front):
        values = [with_error(metric.name, record) for metric in metrics]
        rows.append([str(index), *values, " ".join(record.architecture)])
    return markdown_table(heads, rows)


def with_error(name: str, record: TrialRecord) -> str:
    """Return a value for a column whose head has the unit; an accuracy with its standard error."""
    if name not in record.metrics:
        return DASH
    metric = describe_metric(name)
    error, text = metric.error(record.metrics), metric.write(record.metrics[name])
    return text if error is None or name != "accuracy" else f"{text} ± {error:.1f}"
