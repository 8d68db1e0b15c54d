"""A retrained network's folder: what it is, the best seed's weights, programs and latencies."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import yaml

from configs import Config, config_to_dict
from configs.atomic import write_atomically
from configs.kept import read_or_none
from configs.latency import LatencySettings
from evaluators import shared_device
from experiments.console import console
from experiments.devices import latency_device
from experiments.evaluator import image_shape, latency_fingerprint
from experiments.program_list import note_exports, read_exports
from experiments.programs import PROGRAMS, as_metadata, export_programs, measure_forms
from experiments.reporting.model_card import model_card
from experiments.reporting.plots import plot_architectures
from experiments.retrained import Retrained, read_retrained
from experiments.retraining import Setup, Task, begin_run, seed_folder, train_seed
from experiments.serving import example_file, write_mlmodel
from experiments.studies import unit_of
from experiments.targets import on_this_host
from search.trials import TrialRecord
from search_space import load_architecture
from search_space.architecture import WEIGHTS, copy_plugins
from supernet import load_weights

if TYPE_CHECKING:
    from experiments.tracking.tracker import Tracker

USED_SECTIONS = ("name", "seed", "device", "space", "data", "evaluate", "latency", "retrain")
SEARCHED = "searched"  # the form under the settings of the search, among those that are timed


def write_task(setup: Setup, task: Task) -> None:
    """Write what a network's folder says before it is trained: what it is, and by which recipe."""
    task.blueprint.save(task.folder, setup.expected)
    plugins = copy_plugins(setup.config.plugins, task.folder)
    used = yaml.safe_dump({**_used(setup.config), "plugins": plugins}, sort_keys=False)
    write_atomically(task.folder / "config.yaml", used)


def finish_retraining(setup: Setup, task: Task, tracker: Tracker | None = None) -> Retrained:
    """Make the best seed ready to ship, once all are trained; see `retrain_architecture`."""
    runs = {seed: train_seed(setup, task, seed) for seed in setup.seeds}
    best = max(setup.seeds, key=lambda seed: runs[seed]["validation_accuracy"])
    searched, forms = _ship(setup, task, best)
    if tracker is not None:
        run = begin_run(setup, task, best, tracker)
        run.metrics({**searched, **{f"latency_ms.{form}": ms for form, ms in forms.items()}})
        run.finish()
    retrained = Retrained(
        name=task.name,
        folder=task.folder,
        architecture=task.blueprint.architecture,
        scale=task.blueprint.scale,
        metrics={**runs[best], **searched},
        seeds=setup.seeds,
        test_accuracies=[runs[seed]["accuracy"] for seed in setup.seeds],
        latencies=forms,
        class_names=list(map(str, setup.splits.class_names)),
        conditions=setup.conditions,
        plain=task.blueprint.plain,
        inherited=setup.config.retrain.inherit,
    )
    retrained.write()
    if task.blueprint.architecture:  # a model of timm's is loaded by timm
        _describe(setup, task, retrained)
    return retrained


def _describe(setup: Setup, task: Task, network: Retrained) -> None:
    """Write the model card, the picture in it, and what lets MLflow load and serve the folder."""
    folder = task.folder
    fingerprints = read_or_none(folder / "fingerprint.json", dict, "the card goes without it") or {}
    card = model_card(network, setup.config, fingerprints, read_exports(folder))
    write_atomically(folder / "README.md", card)
    space, *_ = load_architecture(folder / "architecture.yaml")
    record = TrialRecord(0, network.architecture, {}, "complete")
    plot_architectures([record], space, folder / "architecture.png")
    if not (folder / "MLmodel").exists():
        write_mlmodel(folder, network.class_names, example_file(setup.splits.validation))


def register(config: Config, network: Retrained, tracker: Tracker) -> None:
    """Make a network a version of the registered model, and the champion if it is the best.

    See `experiments.tracking.model_registry.register_folder`.
    """
    model = config.tracking.model_name or f"evolute-{config.name}"
    seed = int(network.metrics["seed"])
    run = tracker.child(f"retrain {network.folder.name} seed {seed}", "retrain")
    version = run.register(network.folder, model, network.metrics)
    run.finish()
    if version is not None:
        end = "now the champion" if version.champion else version.reason
        console.print(f"Registered {model} version {version.version}, {end}.", highlight=False)


def _ship(setup: Setup, task: Task, seed: int) -> tuple[dict[str, float], dict[str, float]]:
    """Put a seed's network into the folder, export it, and time it in all its forms.

    What is there already, of the same seed and device, is left as it is.

    Returns:
        Latency and spread under the settings of the search, none where the device was too busy,
        and the milliseconds of every form.
    """
    folder, config = task.folder, setup.config
    before, fingerprints = read_retrained(folder), folder / "fingerprint.json"
    if before is not None and before.metrics["seed"] == seed:
        again = "the network is exported and timed again"
        measured = read_or_none(fingerprints, dict, again) or {}
        if measured.get(SEARCHED) == latency_fingerprint(config):
            searched = {key: before.metrics[key] for key in ("latency_ms", "latency_spread")}
            return searched, before.latencies

    (folder / "metrics.json").unlink(missing_ok=True)  # until all files below are of this seed
    for file in (WEIGHTS, "curves.png"):
        write_atomically(folder / file, (seed_folder(task, seed) / file).read_bytes())
    shape = image_shape(config)
    device = latency_device(config, on_this_host(config).latency)
    if resource := config.latency.resource:
        console.print(f"Latencies are those of this machine, not of {resource}.", highlight=False)
    with shared_device("cpu"):
        network = task.blueprint.build().eval()
        load_weights(folder / WEIGHTS, network)
        metadata = as_metadata(setup.expected)
        forms = export_programs(network, shape, folder, config.latency, metadata)
    note_exports(folder, {file: _about(forms[file]) for file in PROGRAMS if file in forms})
    unit = unit_of(config, setup.workspace)  # so that it compares with the search's latencies
    forms[SEARCHED] = config.latency  # the last: where it is one of the files, that file is timed
    times = measure_forms(network.to(device), shape, forms, folder, device, unit)
    write_atomically(
        fingerprints, json.dumps({form: t.fingerprint for form, t in times.items()}, indent=1)
    )
    milliseconds = {form: time.median_ms for form, time in times.items()}
    if SEARCHED not in times:
        return {}, milliseconds
    spread = times[SEARCHED].spread
    return {"latency_ms": milliseconds.pop(SEARCHED), "latency_spread": spread}, milliseconds


def _about(settings: LatencySettings) -> dict[str, object]:
    """Return what an exported file is, as in ``exports.json``."""
    any_batch = settings.runtime == "onnxruntime_dynamic"
    return {"batch": 0 if any_batch else settings.batch, "dtype": settings.dtype}


def _used(config: Config) -> dict[str, object]:
    """Return the sections on which a retrained network depends."""
    values = config_to_dict(config)
    sections = USED_SECTIONS if not config.retrain.inherit else (*USED_SECTIONS, "train")
    return {key: values[key] for key in sections}
