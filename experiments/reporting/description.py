"""What a search came to, as the description of its run that MLflow shows."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.reporting.account import Account
from experiments.reporting.markdown import front_markdown
from search.trials import TrialRecord

MOST = 20  # members: a description is a page, and MLflow cuts long ones


def describe_search(front: Sequence[TrialRecord], account: Account) -> str:
    """Return the result in Markdown: what is found, the front, and how to go on."""
    parts = [*account.sentences, front_markdown(front[:MOST])]
    if len(front) > MOST:
        parts.append(f"And {len(front) - MOST} more: `report/front.csv` among the artifacts.")
    parts += [
        "All of it on one page, with what each choice brings and costs: `report/report.html` among "
        "the artifacts; the pictures are beside it.",
        "A member of the front is trained from scratch, beside its baselines, by its index:",
        f"```\n{account.retrain(0)}\n```",
        f"Latencies were measured on {account.measured_on}." if account.measured_on else "",
    ]
    return "\n\n".join(filter(None, parts))
