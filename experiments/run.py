"""The whole pipeline: supernet, search, the best network and its baseline retrained."""

from __future__ import annotations

from pathlib import Path

from configs import Config
from experiments.console import console
from experiments.reporting.front import pick
from experiments.reporting.tables import comparison
from experiments.retrain import Retrained, retrain_architecture
from experiments.search import search_architectures
from experiments.studies import check_study
from experiments.train import train_supernet
from experiments.workspace import open_tracker, open_workspace
from search_space import Architecture, SearchSpace

CONVOLUTIONS = ("convolution", "depthwise")


def run_pipeline(config: Config, out: Path | None = None) -> tuple[Retrained, Retrained]:
    """Trains, searches, and retrains the most accurate member of the front beside a baseline.

    The baseline is the all-convolution network of the same space, trained by the same recipe.
    Every part resumes where an earlier run of the same directory stopped.

    Returns:
        The retrained winner and the baseline.
    """
    workspace = open_workspace(config, out)
    check_study(config, workspace)
    workspace.keep(config)
    with open_tracker(config, workspace) as tracker:
        train_supernet(config, workspace, tracker)
        result = search_architectures(config, workspace, tracker)
        winner = retrain_architecture(
            config, workspace, pick(result.front, "best").architecture, "best", tracker
        )
        baseline = retrain_architecture(
            config,
            workspace,
            all_convolution(SearchSpace(config.space, config.plugins)),
            "all-convolution",
            tracker,
            register=False,
        )
        console.print(comparison([winner, baseline]))
        tracker.metrics(
            {"winner_test_accuracy": winner.metrics["accuracy"],
             "baseline_test_accuracy": baseline.metrics["accuracy"]}
        )  # fmt: skip
    console.print(f"Look at everything:  [bold]evolute ui {workspace.directory}[/]", soft_wrap=True)
    return winner, baseline


def all_convolution(space: SearchSpace) -> Architecture:
    """In every layer the first candidate that is a convolution; the first of all where none is."""
    return tuple(
        next(
            (name for name in layer.candidates if space.operator_of(name) in CONVOLUTIONS),
            layer.candidates[0],
        )
        for layer in space.layers
    )
