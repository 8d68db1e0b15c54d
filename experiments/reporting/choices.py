"""What each choice of a space brings and costs, and which layers matter, from a search's trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from experiments.reporting.families import LEAST, layer_models
from search.executors.process import process_unchanged
from search.trials import TrialRecord
from search_space import ChoiceSpace

TREES, MOST = 16, 500  # of fANOVA's forest, and trials that it learns from: some seconds
Effects = list[dict[str, tuple[float, float]]]  # by layer and candidate: effect, standard error


def choice_effects(
    space: ChoiceSpace, trials: Sequence[TrialRecord], metrics: Sequence[str]
) -> Mapping[str, Effects]:
    """Return, by metric, what each candidate adds in each layer over the mean of the layer's.

    Each metric is modelled as a sum over the layers (`LayerSums`). A metric of which too little is
    known, or which is the same in all trials, is left out.
    """
    models = layer_models(space, trials, metrics)
    return {
        metric: [
            {name: model.effect(index, [name]) for name in layer.candidates}
            for index, layer in enumerate(space.layers)
        ]
        for metric, model in models.items()
    }


def layer_importances(
    space: ChoiceSpace, trials: Sequence[TrialRecord], metric: str
) -> list[float] | None:
    """Return the share of each layer in the variance of a metric, by Optuna's fANOVA.

    Hutter, Hoos and Leyton-Brown 2014: what is left of the variance of a random forest's
    predictions when all other layers are averaged over. Of more than 500 trials as many as that are
    taken, evenly.

    Returns:
        One share a layer, 0 of a layer without a choice; None of too few trials.
    """
    import optuna
    from optuna.distributions import CategoricalDistribution
    from optuna.importance import FanovaImportanceEvaluator
    from optuna.trial import create_trial

    read = [record for record in trials if metric in record.metrics]
    read = read[:: -(-len(read) // MOST) or 1]
    if len(read) < LEAST or len({record.metrics[metric] for record in read}) < 2:
        return None
    free = [i for i, layer in enumerate(space.layers) if len(layer.candidates) > 1]
    distributions = {
        f"{i}": CategoricalDistribution(tuple(space.layers[i].candidates)) for i in free
    }
    stored = [
        create_trial(
            params={f"{i}": record.architecture[i] for i in free},
            distributions=dict(distributions),
            value=record.metrics[metric],
        )
        for record in read
    ]
    with process_unchanged():
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study()
        study.add_trials(stored)
        shares = FanovaImportanceEvaluator(n_trees=TREES, seed=0).evaluate(study)
    whole = sum(shares.values()) or 1.0
    return [float(shares.get(f"{i}", 0.0) / whole) for i in range(len(space.layers))]
