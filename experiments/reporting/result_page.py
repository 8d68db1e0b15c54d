"""The page of a result, in Markdown, from what MLflow has of it: one function a section."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from configs import Config
from evaluators.metric import describe_metric
from experiments.reporting.baselines import DASH, HEADS, Trained, cells
from experiments.reporting.families import chosen_families, family_effects, layers_offering
from experiments.reporting.findings import findings
from experiments.reporting.markdown import front_markdown, markdown_table
from experiments.reporting.orders import (
    Order,
    interval_text,
    retrained_orders,
    verified_orders,
)
from experiments.tracking.record import Record, TrackedRun
from search.trials import TrialRecord
from search_space import Architecture, SearchSpace

FAMILY = "involution"  # the one that is asked about
PARTS = {  # kinds of runs, of which there are many each
    "trial": "search, trials",
    "verify": "verification, networks",
    "rank": "ranking, networks",
    "retrain": "retraining, seeds",
}


@dataclass(frozen=True)
class Result:
    """What the page is written from.

    Attributes:
        directory: As it is named in the commands that give what is missing.
        finished: What the search knows of networks that a verification trained to the end.
        networks: Retrained ones, the pick first.
        cost: The metric on the picture's lower axis.
    """

    name: str
    directory: Path
    record: Record
    config: Config
    space: SearchSpace
    front: Sequence[TrialRecord]
    trials: Sequence[TrialRecord]
    finished: Sequence[TrialRecord]
    networks: Sequence[Trained]
    cost: str
    picture: str

    @property
    def chosen(self) -> Architecture:
        """The pick's architecture; empty where none of the space was retrained."""
        architecture = self.networks[0].architecture if self.networks else ()
        return architecture if len(architecture) == len(self.space.layers) else ()

    @property
    def verified(self) -> bool:
        """Whether the front is of networks that were trained alone."""
        return bool(self.record.of_kind("verify"))


def result_page(result: Result) -> str:
    """Return the whole page."""
    verified = result.verified
    shown = findings(result.networks, result.front, result.config, verified)
    sections = {
        "What is and is not shown": shown,
        "Commands": _commands(result),
        "Machine": _machine(result),
        "Times": _times(result),
        "The front": _front(result),
        "How far rankings can be trusted": _ranking(result),
        "Networks that were retrained": _networks(result),
        f"Where {FAMILY} was chosen": _chosen(result),
        f"What {FAMILY} brought and cost": _effects(result),
    }
    head = f"# {result.name}\n\nWritten by `evolute report` from the MLflow runs of this search."
    return (
        "\n\n".join([head, *(f"## {title}\n\n{text}" for title, text in sections.items())]) + "\n"
    )


def _commands(result: Result) -> str:
    tags = result.record.parent.tags
    lines = [tags[key] for key in sorted(tags) if key.startswith("command.")]
    once = list(dict.fromkeys(lines))
    if not once:
        return "None was tracked: this search was run from Python."
    return "```\n" + "\n".join(once) + "\n```"


def _machine(result: Result) -> str:
    tags = result.record.parent.tags
    known = {
        "processor": tags.get("machine.cpu"),
        "GPUs": tags.get("machine.gpus"),
        **{name: tags.get(name) for name in ("evolute", "python", "torch", "timm", "git.commit")},
        "latency on": tags.get("fingerprint.device"),
        "runtime": tags.get("fingerprint.runtime"),
        "threads": tags.get("fingerprint.threads"),
        "batch": tags.get("fingerprint.batch"),
        "type": tags.get("fingerprint.dtype"),
    }
    return "\n".join(f"- {name}: {value}" for name, value in known.items() if value)


def _times(result: Result) -> str:
    record, rows = result.record, []
    for run in record.of_kind("supernet"):
        rows.append(["supernet", DASH, _span([run]), DASH])
    for kind, name in PARTS.items():
        runs = record.of_kind(kind)
        if runs:
            seconds = sum(map(_took, runs))
            rows.append([name, str(len(runs)), _span(runs), _duration(seconds)])
    table = markdown_table(("part", "number", "first to last", "sum of all"), rows)
    notes = "From the first beginning to the last end, with any pause between; the sum is of what "
    notes += "each took on its worker."
    missing = [] if record.of_kind("supernet") else ["No supernet was tracked: `evolute train`."]
    return "\n\n".join([table, notes, *missing])


def _took(run: TrackedRun) -> float:
    """Return the seconds of a run: what its worker says, or from its beginning to its end."""
    return run.metrics.get("seconds", (run.ended or run.started) - run.started)


def _span(runs: Sequence[TrackedRun]) -> str:
    ended = [(run, run.ended) for run in runs if run.ended is not None]
    if len(ended) < len(runs):
        return DASH
    # the run of what a worker did begins when it is done
    first = min(min(run.started, end - run.metrics.get("seconds", 0.0)) for run, end in ended)
    return _duration(max(end for _, end in ended) - first)


def _duration(seconds: float) -> str:
    if seconds <= 0:
        return DASH
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _front(result: Result) -> str:
    if not result.front:
        return f"There is none: `evolute search CONFIG --out {result.directory}`."
    how = "of networks that were trained alone" if result.verified else "with inherited weights"
    text = f"![The front and the networks that were trained]({result.picture})\n\n"
    text += f"Accuracies are {how}, ± a standard error.\n\n" + front_markdown(result.front)
    if not result.verified:
        text += "\n\nNo member was verified: `search.verify` trains the most promising ones alone."
    return text


def _ranking(result: Result) -> str:
    return "\n\n".join([*_orders(result), _ranked(result)])


def _orders(result: Result) -> list[str]:
    """Say how well what was known early orders verified networks, and retrained ones."""
    texts = []
    count, orders = retrained_orders(result.networks, result.finished, result.space)
    if orders:
        texts.append(
            f"Of the {count} verified networks that were retrained, Kendall's tau with the mean "
            "test accuracy, and its 95 % bootstrap interval:\n\n" + _order_table(orders)
        )
    elif result.verified:
        texts.append(
            "Whether the verified order is that of retrained networks is not measured: `evolute "
            f"retrain --search {result.directory} --front`."
        )
    if orders := verified_orders(result.finished, result.space):
        texts.append(
            f"Of the {len(result.finished)} networks that the verification trained to the end, "
            "Kendall's tau with the verified accuracy:\n\n" + _order_table(orders)
        )
    return texts


def _order_table(orders: Sequence[Order]) -> str:
    rows = [[o.predictor, str(o), interval_text(o.interval)] for o in orders]
    return markdown_table(("predictor", "Kendall's tau", "95 % interval"), rows)


def _ranked(result: Result) -> str:
    metrics = result.record.parent.metrics
    taus = {key.partition(".")[2]: v for key, v in metrics.items() if key.startswith("rank_tau.")}
    if not taus:
        return f"Not measured: `evolute rank CONFIG --networks 40 --out {result.directory}`."
    tops = sorted({int(key.split(".")[0].removeprefix("rank_regret_"))
                   for key in metrics if key.startswith("rank_regret_")})  # fmt: skip
    rows = []
    for name in sorted(taus, key=lambda name: -taus[name]):
        regrets = [metrics.get(f"rank_regret_{top}.{name}") for top in tops]
        rows.append(
            [name, f"{taus[name]:.2f}", *(DASH if r is None else f"{r:.2f}" for r in regrets)]
        )
    count = len(result.record.of_kind("rank"))
    heads = ("predictor", "Kendall's tau", *(f"regret of its top {top}" for top in tops))
    return (
        f"{count} networks were trained alone. Regret: the points by which the best of a "
        "predictor's first lies under the best of its latency group.\n\n"
        + markdown_table(heads, rows)
    )


def _networks(result: Result) -> str:
    networks = result.networks
    if not networks:
        return f"None: `evolute retrain --search {result.directory} --seeds 3 --baselines`."
    heads = (HEADS[0], "kind", HEADS[1], "seeds", *HEADS[2:])
    rows = []
    for network in networks:
        _, accuracy, *rest = cells(network, networks)
        rows.append([network.name, network.kind, accuracy, str(len(network.test)), *rest])
    text = "Test accuracy, mean and standard deviation over seeds; by how much the pick is better, "
    text += "with the p value of a paired t-test.\n\n" + markdown_table(heads, rows)
    if not any(network.kind == "family" for network in networks):
        command = f"evolute retrain --search {result.directory} --seeds 3 --baselines"
        text += f"\n\nNo baseline was trained beside the pick: `{command}`."
    return text


def _chosen(result: Result) -> str:
    space, front = result.space, [record.architecture for record in result.front]
    offered = layers_offering(space, FAMILY)
    if not offered:
        return f"No layer of this space offers {FAMILY} beside another candidate."
    counts, rows = chosen_families(space, front), []
    of = space.operator_of
    families = list(dict.fromkeys(of(n) for layer in space.layers for n in layer.candidates))
    for index, layer in enumerate(space.layers):
        here = {of(name) for name in layer.candidates}
        shares = [str(counts[index][family]) if family in here else "" for family in families]
        pick = result.chosen[index] if result.chosen else DASH
        rows.append([f"{index} (stage {layer.stage})", *shares, pick])
    on_front = sum(counts[index][FAMILY] for index in offered)
    places = len(front) * len(offered)
    heads = ("layer", *families, "the pick")
    text = f"How many of the {len(front)} members of the front have which operator in a layer: "
    text += f"{FAMILY} in {on_front} of {places} places that offer it"
    if result.chosen:
        own = sum(space.operator_of(name) == FAMILY for name in result.chosen)
        text += f", and in {own} of the pick's {len(space.layers)} layers"
    return f"{text}.\n\n" + markdown_table(heads, rows)


def _effects(result: Result) -> str:
    space, names = result.space, ["accuracy", result.cost]
    effects = family_effects(space, result.trials, FAMILY, names)
    if not effects:
        return "Not estimated: too few trials, or no layer that offers it beside another candidate."
    known = [name for name in names if name in effects[0].values]
    heads = ["layer", *(describe_metric(name).title for name in known)]
    rows = []
    for effect in effects:
        layer = space.layers[effect.layer]
        values = [f"{effect.values[n][0]:+.3g} ± {effect.values[n][1]:.2g}" for n in known]
        shape = f"{effect.layer} (stage {layer.stage}, {layer.out_channels} channels)"
        rows.append([shape, *values])
    text = "What its candidates add in a layer over the mean of the layer's candidates, ± a "
    text += f"standard error: each metric of {len(result.trials)} trials as a sum over the layers, "
    text += "drawn towards zero where little was measured. Accuracies are those of the search, "
    text += "with inherited weights."
    return f"{text}\n\n{markdown_table(heads, rows)}"
