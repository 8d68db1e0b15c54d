"""Trains a chosen architecture from scratch, tests it once, exports and registers it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import statistics
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from configs import Config, UserError, config_to_dict
from configs.atomic import write_atomically
from evaluators import TooNoisy, count_macs, count_params, deployed, measure_latency
from evaluators.accuracy import measure_accuracy
from experiments.classification import network_trainer
from experiments.console import console, step_progress
from experiments.data.splits import Splits, load_splits
from experiments.devices import hold_in_step, resolve_device
from experiments.evaluator import image_shape
from experiments.export import export_onnx
from experiments.reporting.front import pick, read_front
from experiments.reporting.tables import comparison
from experiments.settings import load_config
from experiments.studies import unit_of
from experiments.tracking.runs import find_search
from experiments.train import load_supernet
from experiments.training_history import TrainingHistory
from experiments.workspace import Workspace, open_tracker, open_workspace
from search_space import (
    Architecture,
    SearchSpace,
    build_network,
    named_architecture,
    save_architecture,
)
from supernet import fit, save_weights, seed_everything

if TYPE_CHECKING:
    from experiments.tracking.tracker import Run, Tracker


@dataclass(frozen=True)
class Retrained:
    """A trained network on disk, and the figures of all its seeds.

    `metrics` are those of the shipped seed (the best on the search-validation split);
    `test_accuracies` has one value per seed.
    """

    name: str
    folder: Path
    architecture: Architecture
    metrics: dict[str, float]
    test_accuracies: list[float]

    @property
    def accuracy_text(self) -> str:
        """Test accuracy in percent, with the standard deviation where there are several seeds."""
        mean = statistics.mean(self.test_accuracies)
        if len(self.test_accuracies) == 1:
            return f"{mean:.2f}"
        return f"{mean:.2f} ± {statistics.stdev(self.test_accuracies):.2f}"


def retrain_architecture(
    config: Config,
    workspace: Workspace,
    architecture: Architecture,
    name: str,
    tracker: Tracker | None = None,
    register: bool = True,
) -> Retrained:
    """Trains from scratch with the `retrain` recipe, once per seed, and ships the best seed.

    Writes ``retrained/NAME-HASH/`` (the hash is that of the architecture and the recipe, so that
    another one never finds these results in its way): ``architecture.yaml``,
    ``weights.safetensors``, ``metrics.json``, ``model.onnx``, ``curves.png``, the configuration,
    and a folder with checkpoint and metrics for each seed. Seeds that are finished aren't trained
    again. The test split is used once per seed, after training; the seed to ship is chosen on the
    search-validation split.

    Args:
        register: Whether the network becomes a model version; `champion` if it beats the present.
    """
    space = SearchSpace(config.space, config.plugins)
    space.validate(architecture)
    folder = workspace.retrained / f"{name}-{_identity(config, architecture)}"
    save_architecture(folder / "architecture.yaml", space, architecture)
    write_atomically(
        folder / "config.yaml", yaml.safe_dump(config_to_dict(config), sort_keys=False)
    )
    device = resolve_device(config.device)
    splits = load_splits(config, device, batch_size=config.retrain.batch_size, test=True)
    runs = [
        _train_seed(config, workspace, space, architecture, folder, seed, splits, tracker)
        for seed in range(config.seed, config.seed + config.retrain.seeds)
    ]
    seed_folder, metrics = max(runs, key=lambda run: run[1]["validation_accuracy"])
    for file in ("weights.safetensors", "model.onnx", "curves.png"):
        if (seed_folder / file).exists():
            write_atomically(folder / file, (seed_folder / file).read_bytes())
    write_atomically(
        folder / "metrics.json",
        json.dumps(
            {
                **metrics,
                "test_accuracies": [values["accuracy"] for _, values in runs],
                "seeds": [values["seed"] for _, values in runs],
                "class_names": splits.class_names,
                "preprocessing": dataclasses.asdict(splits.preprocessing),
            },
            indent=1,
        ),
    )
    if tracker is not None and register:
        model = config.tracking.model_name or f"evolute-{config.name}"
        run = tracker.child(f"retrain {folder.name} seed {int(metrics['seed'])}", "retrain")
        version = run.register(folder, model, metrics)
        run.finish()
        if version is not None:
            suffix = ", now the champion" if version.champion else ""
            console.print(f"Registered {model} version {version.version}{suffix}.")
    return Retrained(
        name, folder, architecture, metrics, [values["accuracy"] for _, values in runs]
    )


def _identity(config: Config, architecture: Architecture) -> str:
    recipe = {**config_to_dict(config.retrain), "seeds": None}  # more seeds go into the same folder
    parts = [architecture, recipe, config_to_dict(config.space)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:6]


def _train_seed(
    config: Config,
    workspace: Workspace,
    space: SearchSpace,
    architecture: Architecture,
    folder: Path,
    seed: int,
    splits: Splits,
    tracker: Tracker | None,
) -> tuple[Path, dict[str, float]]:
    """Train one network of one seed, or read its metrics where it is finished already."""
    seed_folder = folder / f"seed-{seed}"
    metrics_file = seed_folder / "metrics.json"
    if metrics_file.exists():
        return seed_folder, json.loads(metrics_file.read_text(encoding="utf-8"))
    device = resolve_device(config.device)
    seed_everything(seed, 0)
    if config.retrain.inherit:
        network = load_supernet(config, workspace).extract(architecture).to(device)
    else:
        network = build_network(space, architecture).to(device)
    trainer = network_trainer(network, config.retrain, splits.train.steps_per_epoch, seed)
    title = f"{folder.name}, seed {seed}"
    run: Run | None = None
    if tracker is not None:
        params = {
            "architecture": "/".join(architecture),
            "seed": seed,
            "retrain": config_to_dict(config.retrain),
        }
        run = tracker.child(f"retrain {folder.name} seed {seed}", "retrain", params=params)
    history = TrainingHistory(seed_folder / "history.json")

    def on_epoch(epoch: int, loss: float) -> None:
        accuracy = measure_accuracy(trainer.shipped(), splits.validation)
        history.add(epoch, {"loss": loss, "accuracy": accuracy})
        if run is not None:
            run.metrics({"loss": loss, "validation_accuracy": accuracy}, step=epoch)

    with step_progress(title, trainer.total_steps) as advance:
        fit(
            trainer,
            splits.train,
            seed_folder / "checkpoint.pt",
            lambda step, loss: advance(step, f"loss {loss:.3f}"),
            on_epoch,
            partial(hold_in_step, device),
        )

    shipped = trainer.shipped().eval()
    assert splits.test is not None
    size = image_shape(config)
    metrics: dict[str, float] = {
        "accuracy": measure_accuracy(shipped, splits.test),
        "validation_accuracy": measure_accuracy(shipped, splits.validation),
        "params": count_params(deployed(shipped)),
        "macs": count_macs(deployed(shipped), (1, *size)),
        "seed": seed,
    }
    try:
        unit = unit_of(config, workspace)  # so that it compares with the search's latencies
        latency = measure_latency(shipped, size, config.latency, device=device, reference_ms=unit)
        metrics |= {
            "latency_ms": latency.median_ms,
            "latency_spread": latency.spread,
            "latency_reference_ms": latency.reference_ms,
        }
        about = json.dumps(latency.fingerprint, indent=1)
        write_atomically(seed_folder / "fingerprint.json", about)
    except TooNoisy as error:
        console.print(f"[yellow]Latency not measured: {error}[/]")
    save_weights(seed_folder / "weights.safetensors", shipped)
    export = export_onnx(shipped, size, seed_folder / "model.onnx")
    if export.message:
        console.print(f"[yellow]{export.message}[/]")
    curves = history.plot()
    write_atomically(metrics_file, json.dumps(metrics, indent=1))
    if run is not None:
        run.metrics(
            {f"test_{key}" if key == "accuracy" else key: value for key, value in metrics.items()}
        )
        run.artifact(curves)
        run.finish()
    return seed_folder, metrics


def retrain_from_files(
    config: str | None,
    search: str | None,
    pick_what: str,
    architecture: str | None,
    seeds: int | None,
    overrides: list[str],
    out: Path | None,
) -> None:
    """Retrain a member of a search's front, the architecture of a file, or a hand-made network.

    Raises:
        UserError: Neither or both are given, or what is named doesn't exist.
    """
    if (search is None) == (architecture is None):
        raise UserError("give either --search RUN or --architecture FILE")
    if seeds is not None:
        overrides = [*overrides, f"retrain.seeds={seeds}"]
    if search is not None:
        directory = find_search(search)
        settings = load_config(config or Workspace(directory).config, overrides)
        record = pick(read_front(Workspace(directory).report), pick_what)
        choices = record.architecture
        name = f"front-{pick_what}" if pick_what.isdigit() else pick_what
        out = out or directory
    else:
        assert architecture is not None
        if config is None:
            raise UserError("--architecture needs a CONFIG too: it says the data and the recipe")
        settings, choices = _with_space_of(load_config(config, overrides), architecture)
        file = Path(architecture)
        # an architecture.yaml is better known by its folder
        name = (file.resolve().parent if file.stem == "architecture" else file).stem
        out = out or Path("runs") / f"{settings.name}-{name}"
    # The configuration of a search stays what it was; the recipe is kept beside the network.
    known = Workspace(out).config.exists()
    workspace = Workspace(out) if known else open_workspace(settings, out)
    if not known:
        workspace.keep(settings)
    with open_tracker(settings, workspace) as tracker:
        retrained = retrain_architecture(settings, workspace, choices, name, tracker)
    console.print(comparison([retrained]))
    console.print(f"Ready to ship: {retrained.folder}", soft_wrap=True, highlight=False)


def _with_space_of(config: Config, name: str) -> tuple[Config, Architecture]:
    """Return the configuration with an architecture's space but its own images, and the choices."""
    space, choices = named_architecture(name)
    data = {key: getattr(config.space, key) for key in ("num_classes", "in_channels", "input_size")}
    changed = dataclasses.replace(space.config, **data)
    return dataclasses.replace(config, space=changed, plugins=space.plugins), choices
