"""What a result shows and what it does not, in sentences that are made of its numbers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from configs import Config
from evaluators.metric import describe_metric
from experiments.reporting.baselines import Trained, paired_difference
from experiments.reporting.networks import Contest, contest
from search.trials import TrialRecord


def findings(
    networks: Sequence[Trained], front: Sequence[TrialRecord], config: Config, verified: bool
) -> str:
    """Return one paragraph.

    Args:
        networks: The pick first; may be empty.
        verified: Whether the accuracies of the front are of networks that were trained alone.
    """
    sentences = []
    if networks:
        found = contest(networks)
        sentences += [_outcome(found), *_limits_of_seeds(found)]
        sentences += [*_hybrids(networks), *_against(networks)]
    else:
        sentences.append("No network was retrained, so nothing is shown about the pick.")
    sentences += _limits_of_front(front, verified)
    sentences += _limits_of_training(config, networks)
    return " ".join(sentences)


def _outcome(found: Contest) -> str:
    pick, plain, gap = found.pick, found.plain, found.difference
    own = f"The pick, {pick.name} ({_figures(pick)}), "
    if plain is None:
        also = "is itself a plain network; no other" if pick.plain else "was compared with none: no"
        return f"{own}{also} plain network of equal or lower latency was trained."
    if pick.plain:
        own += f"itself a plain network ({_operators(pick)}), "
    of = f", the most accurate on validation images of {found.rivals}" if found.rivals > 1 else ""
    against = f"the plain network {plain.name} ({_figures(plain)}{of})"
    if found.outcome == "is not decided":
        why = (
            "one seed decides nothing" if gap.seeds < 2 else "alike in all seeds: there is no test"
        )
        return f"{own}has {gap.points:+.2f} points over {against}; {why}."
    p = "alike in all seeds" if gap.p is None else f"p = {gap.p:.2g}"
    return (
        f"{own}**{found.outcome}** {'against ' if found.outcome != 'equals' else ''}{against}: "
        f"{gap.points:+.2f} points, {p}, paired over {gap.seeds} seeds."
    )


def _hybrids(networks: Sequence[Trained]) -> list[str]:
    """Say how far the best hybrid is from a pick that is a plain network."""
    pick, *others = networks
    hybrids = [network for network in others if network.architecture and not network.plain]
    if not pick.plain or not hybrids:
        return []
    best = max(hybrids, key=lambda network: network.validated)
    gap = paired_difference(best, pick)
    if gap.points is None:
        return []
    p = "" if gap.p is None else f", p = {gap.p:.2g}"
    return [
        f"The most accurate hybrid beside it, {best.name} ({_figures(best)}), has "
        f"{gap.points:+.2f} points against the pick{p}, paired over {gap.seeds} seed(s)."
    ]


def _operators(network: Trained) -> str:
    names = list(dict.fromkeys(network.architecture))
    return f"{names[0]} throughout" if len(names) == 1 else " and ".join(names)


def _figures(network: Trained) -> str:
    latency = network.latency_ms
    at = "" if latency is None else f" at {describe_metric('latency_ms').text(latency)}"
    return f"{network.accuracy_text} %{at}"


def _against(networks: Sequence[Trained]) -> list[str]:
    """Say where the best random network and the timm models lie."""
    pick, sentences = networks[0], []
    drawn = [network for network in networks if network.kind == "random"]
    if drawn:
        best = max(drawn, key=lambda network: network.validated)
        sentences.append(
            f"The best of {len(drawn)} random architectures of its latency has {_figures(best)}, "
            f"{pick.mean - best.mean:+.2f} points for the pick."
        )
    for network in networks:
        if network.kind == "timm":
            sentences.append(f"timm's {network.name} has {_figures(network)}.")
    return sentences


def _limits_of_seeds(found: Contest) -> list[str]:
    if found.plain is None:
        return []
    ours, theirs = found.pick.test, found.plain.test
    gaps = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    if len(gaps) < 2:
        return ["Not shown: whether the difference is more than the noise of training."]
    if found.difference.p is None:
        return []
    from scipy.stats import t

    half = float(t.ppf(0.975, len(gaps) - 1)) * statistics.stdev(gaps) / math.sqrt(len(gaps))
    return [
        f"By {len(gaps)} seeds that difference is known to ± {half:.2f} points (95 %); what is "
        "smaller is not shown."
    ]


def _limits_of_front(front: Sequence[TrialRecord], verified: bool) -> list[str]:
    errors = [describe_metric("accuracy").error(record.metrics) for record in front]
    known = [error for error in errors if error is not None]
    about = f", ± {statistics.median(known):.1f} points each" if known else ""
    if not front:
        return []
    if verified:
        return [f"Accuracies of the front are of networks that were trained alone{about}."]
    return [
        "Not shown: the order of the front. Its accuracies are read with inherited weights"
        f"{about}, which rank architectures only roughly."
    ]


def _limits_of_training(config: Config, networks: Sequence[Trained]) -> list[str]:
    trained = round(config.data.limit * (1 - config.data.validation_fraction))
    images = f" on at most {trained:,} images" if trained else ""
    known = networks[0].epochs if networks else None  # a command may have set it for itself
    epochs = _count(known or config.retrain.epochs, "epoch")
    return [
        f"Networks are retrained for {epochs}{images}; whether a longer training orders them alike "
        "is not shown, nor is another data set, device or search: this is one search, of seed "
        f"{config.seed}."
    ]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
