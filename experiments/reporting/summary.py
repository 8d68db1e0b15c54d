"""What a search says in the terminal about its space, its readings and its predictions."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.table import Table

from evaluators.metric import METRICS, TIMED, describe_metric
from search import SearchResult
from search.layer_sums import LayerSums
from search.space_profile import SpaceProfile
from search.trials import INHERITED, SEARCHED
from search_space import ChoiceSpace


def profile_table(profile: SpaceProfile) -> Table:
    """Return the range of each cheap metric of a space, and its bound."""
    feasible = f"; {profile.feasible:.0%} of these within all bounds" if profile.bounds else ""
    table = Table(
        title=f"Space: {profile.measured} architectures, {profile.samples} at random{feasible}",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    for column in ("metric", "smallest", "median", "largest", "bound"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name, values in profile.ranges.items():
        if name in METRICS:  # companions, such as the spread of a latency, are left out
            metric = describe_metric(name)
            ends = (values.smallest, values.median, values.largest)
            bound = metric.write(profile.bounds[name]) if name in profile.bounds else ""
            table.add_row(metric.title, *map(metric.write, ends), bound)
    return table


def readings(result: SearchResult) -> str:
    """Say from how many images each of the two accuracies of a front was read, if it has two."""
    metrics = result.front[0].metrics
    if f"{INHERITED}accuracy" in metrics:
        return (
            f"Accuracy: trained alone, of {metrics['accuracy_images']:.0f} validation images by "
            "which neither the search nor a rung has selected; inherited: with weights of the "
            "supernet, of as many. ± is a standard error."
        )
    if f"{SEARCHED}accuracy_images" in metrics:
        return (
            f"Accuracy: of {metrics['accuracy_images']:.0f} validation images that the search has "
            f"not read; in the search: of {metrics[f'{SEARCHED}accuracy_images']:.0f} others. ± "
            "is a standard error."
        )
    return ""


def time_predictions(result: SearchResult, space: ChoiceSpace) -> Iterator[str]:
    """Say how far a sum over the layers is from each timed metric of the goal."""
    for name in result.goal.metrics:
        metric = describe_metric(name)
        measured = [record for record in result.trials if name in record.metrics]
        if metric.effort == TIMED and len(measured) > 1:
            values = [record.metrics[name] for record in measured]
            sums = LayerSums(space).fit([record.architecture for record in measured], values)
            yield (
                f"{metric.label} as a sum over the layers, each of {len(values)} predicted from "
                f"the others: ± {metric.text(sums.error)}."
            )
