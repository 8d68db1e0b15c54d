"""The whole pipeline: supernet, search, the best network and its baseline retrained."""

from __future__ import annotations

from pathlib import Path

from configs import Config
from experiments.blueprints import all_convolution
from experiments.console import console, copied
from experiments.finished import keep_finished
from experiments.ownership import owned
from experiments.plan import measure_plan
from experiments.reporting.front import pick
from experiments.retrain import conclude, retrain_architecture
from experiments.retrained import Retrained
from experiments.retraining import check_images, check_recipe
from experiments.search import search_architectures
from experiments.shipping import register
from experiments.studies import check_study
from experiments.train import prepare_training
from experiments.workspace import Workspace, open_tracker, open_workspace
from search_space import SearchSpace


def run_pipeline(config: Config, out: Path | None = None) -> tuple[Retrained, Retrained]:
    """Trains, searches, and retrains the most accurate member of the front beside a baseline.

    The baseline is the all-convolution network of the same space, trained by the same recipe. Both
    are registered: the better one is the champion. Every part resumes where an earlier run of the
    same directory stopped.

    Returns:
        The retrained winner and the baseline, which are one where the search found the baseline.
    """
    workspace = open_workspace(config, out)
    with owned(workspace):
        return _run_owned(config, workspace)


def _run_owned(config: Config, workspace: Workspace) -> tuple[Retrained, Retrained]:
    check_study(config, workspace)
    check_recipe(config)  # what is refused leaves everything as it was
    training = prepare_training(config, workspace)
    if training.parts is not None:
        check_images(config, training.parts[0])
        console.print(measure_plan(config, training.parts[0]), highlight=False)
    workspace.keep(config)
    with open_tracker(config, workspace) as tracker:
        training.run(tracker)
        result = search_architectures(config, workspace, tracker)
        space = SearchSpace(config.space, config.plugins)
        best = pick(result.front, "best").architecture
        plain = space.canonical(all_convolution(space))
        kind = "" if best == plain else "family"
        baseline = retrain_architecture(config, workspace, plain, "all-convolution", tracker, kind)
        winner = baseline
        if best != plain:
            winner = retrain_architecture(config, workspace, best, "best", tracker)
        networks = [winner] if winner is baseline else [winner, baseline]
        for network in reversed(networks):  # what is dominated is never promoted, not for a moment
            register(config, network, tracker)
        tracker.metrics(
            {"winner_test_accuracy": winner.metrics["accuracy"],
             "baseline_test_accuracy": baseline.metrics["accuracy"]}
        )  # fmt: skip
    with copied() as said:
        conclude(networks)
        look = f"Look at everything:  evolute ui {workspace.directory}"
        console.print(look, soft_wrap=True, highlight=False, markup=False)  # [b] may be a folder
    if tracker.flush(0):
        text = workspace.summary.read_text(encoding="utf-8") + said.getvalue()
        keep_finished(config, workspace, [n.folder for n in networks], text.rstrip())
    return winner, baseline
