"""Trains a chosen architecture, tests it once, exports and registers it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from torch import nn

from configs import Config, UserError, config_to_dict
from configs.atomic import write_atomically
from configs.differences import first_difference
from evaluators import count_macs, count_params, deployed, shared_device
from evaluators.accuracy import measure_accuracy
from experiments.classification import network_trainer
from experiments.console import console, step_progress
from experiments.data.splits import Splits, load_splits
from experiments.devices import hold_in_step, resolve_device
from experiments.evaluator import image_shape, latency_fingerprint
from experiments.export import as_metadata, export_programs, measure_forms, pretrained_cfg
from experiments.reporting.front import pick, read_front
from experiments.reporting.tables import comparison
from experiments.retrained import Retrained, better_plain, comparable, read_retrained, verdict
from experiments.settings import load_config
from experiments.stand_alone import train_alone
from experiments.studies import unit_of
from experiments.tracking.runs import find_search
from experiments.train import load_supernet
from experiments.training_history import TrainingHistory
from experiments.workspace import (
    SUPERNET_KEYS,
    Workspace,
    open_tracker,
    open_workspace,
    what_matters,
)
from search.space_profile import uniform_architectures
from search_space import (
    Architecture,
    SearchSpace,
    build_network,
    named_architecture,
    save_architecture,
)
from search_space.architecture import WEIGHTS
from supernet import load_weights, save_weights, seed_everything

if TYPE_CHECKING:
    from experiments.tracking.tracker import Run, Tracker

CONVOLUTIONS = ("convolution", "depthwise")
USED_SECTIONS = ("name", "seed", "device", "space", "data", "evaluate", "latency", "retrain")
SEARCHED = "searched"  # the form under the settings of the search, among those that are timed


@dataclass(frozen=True)
class Task:
    """One architecture to train, and everything that its seeds share."""

    config: Config
    workspace: Workspace
    space: SearchSpace
    name: str
    architecture: Architecture
    folder: Path
    splits: Splits
    expected: dict[str, Any]  # what the weights expect of images; see `pretrained_cfg`
    conditions: str  # a hash of what two networks must have in common to be compared
    tracker: Tracker | None = None

    def run_of(self, seed: int, params: dict[str, Any] | None = None) -> Run | None:
        """Begin or continue the MLflow run of a seed."""
        if self.tracker is None:
            return None
        return self.tracker.child(f"retrain {self.folder.name} seed {seed}", "retrain", params)


def retrain_architecture(
    config: Config,
    workspace: Workspace,
    architecture: Architecture,
    name: str,
    tracker: Tracker | None = None,
) -> Retrained:
    """Train with the `retrain` recipe, once per seed, and make the best seed ready to ship.

    Writes ``retrained/NAME-HASH/``: ``architecture.yaml``, ``weights.safetensors``,
    ``metrics.json``, ``model.onnx`` for the batch of ``latency.batch``, ``model-dynamic.onnx`` for
    any, ``curves.png``, the configuration, and a folder with checkpoint and metrics for each seed.
    The hash is that of all that changes a result, so that other settings never find these results
    in their way: architecture, space, plugins, recipe, first seed, data, latency settings, kind of
    device, and the supernet's weights where they are inherited. Seeds that are finished aren't
    trained again. The test split is used once per seed, after training; the seed to ship is chosen
    on the search-validation split.

    Raises:
        UserError: The architecture is not in the space, the data can't be read, the runtime of
            ``latency`` can't be had, or the supernet to inherit from is another or none.
    """
    return run_retraining(prepare_retraining(config, workspace, architecture, name), tracker)


def prepare_retraining(
    config: Config, workspace: Workspace, architecture: Architecture, name: str
) -> Task:
    """Return a training that nothing was found to stand in the way of; no result is written.

    Raises:
        UserError: As for `retrain_architecture`.
    """
    space = SearchSpace(config.space, config.plugins)
    space.validate(architecture)
    check_recipe(config)
    if config.retrain.inherit:
        _check_supernet(config, workspace)
    device = resolve_device(config.device)
    with hold_in_step(device):
        splits = load_splits(
            config,
            device,
            batch_size=config.retrain.batch_size,
            test=True,
            statistics=workspace.statistics,
        )
    expected = pretrained_cfg(splits.preprocessing, splits.class_names)
    conditions = _conditions(config, workspace, splits.sizes, expected)
    identity = _identity(conditions, config.seed, space, architecture)
    folder = workspace.retrained / f"{name}-{identity}"
    return Task(
        config, workspace, space, name, tuple(architecture), folder, splits, expected, conditions
    )


def check_recipe(config: Config) -> None:
    """Refuse a recipe that would fail once a network is to be trained, or timed.

    Raises:
        UserError: There is no such optimizer, it can't take the recipe, or the runtime of
            ``latency`` can't be had.
    """
    space = SearchSpace(config.space, config.plugins)
    latency_fingerprint(config)
    network_trainer(build_network(space, all_convolution(space)), config.retrain, 1, config.seed)


def run_retraining(task: Task, tracker: Tracker | None = None) -> Retrained:
    """Train what `prepare_retraining` prepared; see `retrain_architecture`."""
    task, config = dataclasses.replace(task, tracker=tracker), task.config
    save_architecture(
        task.folder / "architecture.yaml", task.space, task.architecture, task.expected
    )
    used = yaml.safe_dump(_used(config), sort_keys=False)
    write_atomically(task.folder / "config.yaml", used)
    seeds = range(config.seed, config.seed + config.retrain.seeds)
    runs = {seed: _train_seed(task, seed) for seed in seeds}
    best = max(seeds, key=lambda seed: runs[seed]["validation_accuracy"])
    searched, forms = _ship(task, best)
    retrained = Retrained(
        name=task.name,
        folder=task.folder,
        architecture=task.architecture,
        metrics={**runs[best], **searched},
        seeds=list(seeds),
        test_accuracies=[runs[seed]["accuracy"] for seed in seeds],
        latencies=forms,
        class_names=list(map(str, task.splits.class_names)),
        conditions=task.conditions,
        plain=is_plain(task.space, task.architecture),
        inherited=config.retrain.inherit,
    )
    retrained.write()
    return retrained


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


def all_convolution(space: SearchSpace) -> Architecture:
    """Return the first convolution of every layer; its first candidate where there is none."""
    return tuple(
        next(
            (name for name in layer.candidates if space.operator_of(name) in CONVOLUTIONS),
            layer.candidates[0],
        )
        for layer in space.layers
    )


def is_plain(space: SearchSpace, architecture: Architecture) -> bool:
    """Return whether an architecture has one candidate throughout, at any depth.

    Where stages offer different candidates it may have the first of a layer, or the first
    convolution.
    """
    if len({name for name in architecture if not space.is_skip(name)}) == 1:
        return True
    plain = {space.canonical(all_convolution(space)), *uniform_architectures(space)}
    return space.canonical(architecture) in plain


def _check_supernet(config: Config, workspace: Workspace) -> None:
    """Check that the configuration is that of the supernet to inherit from.

    Raises:
        UserError: It isn't; the message names the difference. Or there is no supernet.
    """
    if not workspace.config.exists():
        load_supernet(config, workspace)  # says what is missing
    trained, now = what_matters(load_config(workspace.config)), what_matters(config)
    for key in SUPERNET_KEYS:
        if difference := first_difference(trained[key], now[key], key):
            raise UserError(
                f"retrain.inherit: the supernet of {workspace.directory} is another one: "
                f"{difference}. Take the old value, or train from scratch"
            )


def _conditions(
    config: Config, workspace: Workspace, sizes: dict[str, int], expected: dict[str, Any]
) -> str:
    """Hash what two networks must have in common if their figures are to be compared."""
    inherited = None
    if config.retrain.inherit:
        load_supernet(config, workspace)  # says so where it is missing or damaged
        inherited = hashlib.sha256(workspace.weights.read_bytes()).hexdigest()
    return _hash(
        {**config_to_dict(config.retrain), "seeds": None},  # more seeds go into the same folder
        what_matters(config)["data"],
        [expected, sizes],  # other images under an old name have another mean
        config_to_dict(config.latency),
        resolve_device(config.device).type,
        inherited,
    )


def _identity(conditions: str, seed: int, space: SearchSpace, architecture: Architecture) -> str:
    plugins = [Path(plugin).read_text(encoding="utf-8") for plugin in space.plugins]
    return _hash(conditions, seed, config_to_dict(space.config), architecture, plugins)[:8]


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _used(config: Config) -> dict[str, Any]:
    """Return the sections on which a retrained network depends; its plugins lie beside it."""
    values = config_to_dict(config)
    sections = USED_SECTIONS if not config.retrain.inherit else (*USED_SECTIONS, "train")
    return {
        **{key: values[key] for key in sections},
        "plugins": [Path(plugin).name for plugin in config.plugins],
    }


def _train_seed(task: Task, seed: int) -> dict[str, float]:
    """Train one network of one seed, or read its metrics where it is finished already."""
    config, splits = task.config, task.splits
    seed_folder = task.folder / f"seed-{seed}"
    metrics_file = seed_folder / "metrics.json"
    if metrics_file.exists():
        return json.loads(metrics_file.read_text(encoding="utf-8"))
    device = resolve_device(config.device)
    seed_everything(seed, 0)
    with hold_in_step(device):
        if config.retrain.inherit:
            network = load_supernet(config, task.workspace).extract(task.architecture).to(device)
        else:
            network = build_network(task.space, task.architecture).to(device)
    params = {
        "architecture": "/".join(task.architecture),
        "seed": seed,
        "retrain": config_to_dict(config.retrain),
    }
    run = task.run_of(seed, params)
    history = TrainingHistory(seed_folder / "history.json")

    def on_epoch(epoch: int, loss: float, shipped: nn.Module) -> None:
        accuracy = measure_accuracy(shipped, splits.validation)
        history.add(epoch, {"loss": loss, "accuracy": accuracy})
        if run is not None:
            run.metrics({"loss": loss, "validation_accuracy": accuracy}, step=epoch)

    steps = config.retrain.epochs * splits.train.steps_per_epoch
    with step_progress(f"{task.folder.name}, seed {seed}", steps) as advance:
        shipped = train_alone(
            network,
            config,
            splits.train,
            seed,
            seed_folder,
            on_step=lambda step, loss: advance(step, f"loss {loss:.3f}"),
            on_epoch=on_epoch,
        )

    assert splits.test is not None
    metrics: dict[str, float] = {
        "accuracy": measure_accuracy(shipped, splits.test),
        "validation_accuracy": measure_accuracy(shipped, splits.validation),
        "params": count_params(deployed(shipped)),
        "macs": count_macs(deployed(shipped), (1, *image_shape(config))),
        "seed": seed,
    }
    save_weights(seed_folder / WEIGHTS, shipped, as_metadata(task.expected))
    curves = history.plot()
    write_atomically(metrics_file, json.dumps(metrics, indent=1))
    if run is not None:
        run.metrics(
            {f"test_{key}" if key == "accuracy" else key: value for key, value in metrics.items()}
        )
        run.artifact(curves)
        run.finish()
    return metrics


def _ship(task: Task, seed: int) -> tuple[dict[str, float], dict[str, float]]:
    """Put a seed's network into the folder, export it, and time it in all its forms.

    What is there already, of the same seed and device, is left as it is.

    Returns:
        Latency and spread under the settings of the search, none where the device was too busy,
        and the milliseconds of every form.
    """
    folder, latency = task.folder, task.config.latency
    before, fingerprints = read_retrained(folder), folder / "fingerprint.json"
    if before is not None and before.metrics["seed"] == seed and fingerprints.exists():
        measured = json.loads(fingerprints.read_text(encoding="utf-8"))
        if measured.get(SEARCHED) == latency_fingerprint(task.config):
            searched = {key: before.metrics[key] for key in ("latency_ms", "latency_spread")}
            return searched, before.latencies

    (folder / "metrics.json").unlink(missing_ok=True)  # until all files below are of this seed
    for file in (WEIGHTS, "curves.png"):
        write_atomically(folder / file, (folder / f"seed-{seed}" / file).read_bytes())
    shape, device = image_shape(task.config), resolve_device(task.config.device)
    with shared_device("cpu"):
        network = build_network(task.space, task.architecture).eval()
        load_weights(folder / WEIGHTS, network)
        forms = export_programs(network, shape, folder, latency, as_metadata(task.expected))
    unit = unit_of(task.config, task.workspace)  # so that it compares with the search's latencies
    forms[SEARCHED] = latency  # the last: where it is one of the files, that file is timed
    times = measure_forms(network.to(device), shape, forms, folder, device, unit)
    write_atomically(
        fingerprints, json.dumps({form: t.fingerprint for form, t in times.items()}, indent=1)
    )
    milliseconds = {form: time.median_ms for form, time in times.items()}
    spread = {"latency_spread": times[SEARCHED].spread} if SEARCHED in times else {}
    searched = {"latency_ms": milliseconds.pop(SEARCHED), **spread} if spread else {}
    if (run := task.run_of(seed)) is not None:
        run.metrics({**searched, **{f"latency_ms.{k}": v for k, v in milliseconds.items()}})
        run.finish()
    return searched, milliseconds


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
        name = (
            f"front-{pick_what}" if pick_what.isdigit() else pick_what.strip("%").replace(" ", "-")
        )
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
    task = prepare_retraining(settings, workspace, choices, name)
    if not known:
        workspace.keep(settings)
    with open_tracker(settings, workspace) as tracker:
        retrained = run_retraining(task, tracker)
        register(settings, retrained, tracker)
    conclude([retrained])


def conclude(networks: list[Retrained]) -> None:
    """Print networks side by side, and whether the first is worth shipping.

    A plain network that was trained beside it by the same recipe, and is better, is shown too.
    """
    first = networks[0]
    better = better_plain(first, comparable(first))
    shown = networks if better is None or better in networks else [*networks, better]
    console.print(comparison(shown))
    console.print(verdict(first, better), soft_wrap=True, highlight=False)


def _with_space_of(config: Config, name: str) -> tuple[Config, Architecture]:
    """Return the configuration with an architecture's space but its own images, and the choices."""
    space, choices = named_architecture(name)
    data = {key: getattr(config.space, key) for key in ("num_classes", "in_channels", "input_size")}
    changed = dataclasses.replace(space.config, **data)
    return dataclasses.replace(config, space=changed, plugins=space.plugins), choices
