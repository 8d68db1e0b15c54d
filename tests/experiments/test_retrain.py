"""Retraining: whose results a folder holds, and whether a network gets its accuracy back alone."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import timm
import timm.data
import torch
from photographs import CLASSES, write_photographs
from PIL import Image
from readme_blocks import BLOCK, run_blocks
from runtimes import is_here
from safetensors import safe_open
from spaces import space_values
from trainings import one_program

import evolute
from configs import Config, UserError
from configs.loading import check_config
from experiments.blueprints import is_plain
from experiments.data.splits import load_splits
from experiments.reporting.tables import comparison
from experiments.retrain import retrain_architecture
from experiments.retrained import Retrained, better_plain, comparable, read_retrained, verdict
from experiments.settings import load_config
from experiments.shipping import register
from experiments.tracking.tracker import Tracker
from experiments.train import new_supernet
from experiments.workspace import Workspace, open_tracker, open_workspace
from search_space import SearchSpace
from supernet import save_weights

ARCHITECTURE = ("conv3", "inv3", "conv3", "conv3")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    write_photographs(root)
    return root


def photo_config(photos: Path, **sections: Any) -> Config:
    space = space_values(candidates=("conv3", "inv3", "skip"))
    values: dict[str, Any] = {
        "name": "photos",
        "device": "cpu",
        "space": {**space, "input_size": 16, "in_channels": 3, "num_classes": 3},
        "data": {"name": "images", "root": str(photos)},
        "latency": {"max_spread": 10, "repeats": 6, "batch": 2},
        "retrain": {"epochs": 1, "batch_size": 32},
    }
    return check_config({**values, **sections})


def kept_workspace(config: Config, folder: Path) -> Workspace:
    workspace = open_workspace(config, folder)
    workspace.keep(config)
    return workspace


def retrain(config: Config, folder: Path, architecture=ARCHITECTURE, **options: Any) -> Retrained:
    return retrain_architecture(
        config, open_workspace(config, folder), architecture, "n", **options
    )


@dataclasses.dataclass
class Shipped:
    """A network trained on photographs, registered, and the files that it was tested on."""

    network: Retrained
    files: list[Path]
    registered: Path
    labels: list[int]

    def accuracy(self, predictions: list[int]) -> float:
        return 100 * float(np.mean(np.equal(predictions, self.labels)))


@pytest.fixture(scope="module")
def shipped(photos, tmp_path_factory) -> Shipped:
    directory = tmp_path_factory.mktemp("shipped")
    config = photo_config(photos, retrain={"epochs": 6, "batch_size": 16, "learning_rate": 0.05})
    workspace = kept_workspace(config, directory)
    with open_tracker(config, workspace) as tracker:
        network = retrain_architecture(config, workspace, ARCHITECTURE, "n", tracker)
        register(config, network, tracker)
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{directory / 'mlflow.db'}")
    version = client.get_model_version_by_alias("evolute-photos", "champion")
    registered = Path(client.download_artifacts(version.run_id, "model", str(directory)))
    files = sorted(photos.glob("val/*/*.png"))
    labels = [CLASSES.index(file.parent.name) for file in files]
    return Shipped(network, files, registered, labels)


def predicted_by_timm(folder: Path, files: list[Path]) -> list[int]:
    """What anyone does with a model of timm's."""
    model = timm.create_model(
        "evolute",
        architecture=folder / "architecture.yaml",
        checkpoint_path=str(folder / "weights.safetensors"),
    ).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    images = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
    with torch.no_grad():
        return model(images).argmax(1).tolist()


def test_timm_alone_gets_the_accuracy_back(shipped: Shipped) -> None:
    predictions = predicted_by_timm(shipped.network.folder, shipped.files)
    assert shipped.accuracy(predictions) == pytest.approx(shipped.network.metrics["accuracy"])
    assert shipped.network.metrics["accuracy"] > 40  # a guess gets 33


def test_the_registered_model_gets_the_accuracy_back(shipped: Shipped) -> None:
    predictions = predicted_by_timm(shipped.registered, shipped.files)
    assert shipped.accuracy(predictions) == pytest.approx(shipped.network.metrics["accuracy"])


@pytest.mark.parametrize("file", ["model.onnx", "model-dynamic.onnx"])
def test_onnx_alone_gets_the_accuracy_back(shipped: Shipped, file: str) -> None:
    """Nothing of PyTorch: the file says what is done to an image, and what the classes are."""
    session = onnxruntime.InferenceSession(shipped.registered / file)
    expected = json.loads(session.get_modelmeta().custom_metadata_map["pretrained_cfg"])
    assert (expected["crop_pct"], expected["crop_mode"]) == (1.0, "center")
    channels, size, _ = expected["input_size"]

    def prepared(file: Path) -> np.ndarray:
        image = Image.open(file).convert({1: "L", 3: "RGB"}[channels])
        short = min(image.size)
        shape = [size if side == short else int(size * side / short) for side in image.size]
        image = image.resize(shape, Image.Resampling[expected["interpolation"].upper()])
        left, top = (round((side - size) / 2) for side in image.size)
        pixels = np.asarray(image.crop((left, top, left + size, top + size)), np.float32) / 255
        normal = (pixels - np.float32(expected["mean"])) / np.float32(expected["std"])
        return normal.transpose(2, 0, 1)

    names = []
    for index in range(0, len(shipped.files), 2):  # the batch that was searched for
        images = np.stack([prepared(file) for file in shipped.files[index : index + 2]])
        (logits,) = session.run(None, {"images": images})
        names += [expected["label_names"][number] for number in logits.argmax(1)]
    hits = np.mean([name == file.parent.name for name, file in zip(names, shipped.files)])
    assert 100 * hits == pytest.approx(shipped.network.metrics["accuracy"])


def test_the_readme_loads_every_file(shipped: Shipped, tmp_path: Path) -> None:
    """What it says is run as it stands; all answer alike, and it has a block for each file."""
    folder = shutil.copytree(shipped.network.folder, tmp_path / "network")
    photograph = shipped.files[-1]
    printed = run_blocks(folder, photograph)
    forms = [form for form in shipped.network.latencies if form != "eager"]
    titles = ["weights.safetensors", "weights.safetensors` in timm", *sorted(forms)]
    assert [title.strip("`") for title in printed] == titles
    best = evolute.Classifier(folder).best((folder / "photo.jpg").read_bytes())
    expected = dict.fromkeys(titles, best[0][0]) | {titles[0]: str(best)}
    assert [*printed.values()] == [*expected.values()]
    lines = [
        len(code.splitlines()) for _, code in BLOCK.findall((folder / "README.md").read_text())
    ]
    assert max(lines) <= 15


def test_weights_say_what_they_expect(shipped: Shipped) -> None:
    with safe_open(shipped.network.folder / "weights.safetensors", "pt") as weights:
        metadata = weights.metadata()
    expected = json.loads(metadata["pretrained_cfg"])
    assert expected["input_size"] == [3, 16, 16] and expected["label_names"] == list(CLASSES)
    assert metadata["format"] == "pt"


def test_the_latency_of_every_form_is_reported(shipped: Shipped) -> None:
    values = json.loads((shipped.network.folder / "metrics.json").read_text())
    forms = ["eager", "model.onnx", "model-dynamic.onnx"]
    forms += ["model-openvino.onnx"] if is_here("openvino") else []  # it has an involution
    forms += ["model-operators.onnx"] if is_here("onnxruntime_operators") else []
    assert list(values["latencies"]) == forms
    assert values["latency_ms"] == values["latencies"]["eager"]  # which was searched
    columns = [str(column.header) for column in comparison([shipped.network]).columns]
    assert columns[-len(forms) :] == [f"{form} (ms)" for form in forms]
    assert read_retrained(shipped.network.folder) == shipped.network


def test_other_settings_never_answer_from_a_folder(photos, tmp_path, monkeypatch) -> None:
    one_program(monkeypatch)
    config = photo_config(photos)
    first = retrain(config, tmp_path)
    files = {f: f.read_bytes() for f in first.folder.rglob("*") if f.is_file()}
    assert retrain(config, tmp_path) == first
    others = [
        {"data": {"name": "images", "root": str(photos), "limit": 90}},
        {"seed": 1},
        {"latency": {"max_spread": 10, "repeats": 6}},
        {"retrain": {"epochs": 1, "batch_size": 32, "label_smoothing": 0.1}},
    ]
    folders = {first.folder}
    for other in others:
        changed = photo_config(photos, **other)
        retrained = retrain_architecture(changed, Workspace(tmp_path), ARCHITECTURE, "n")
        seeds_alone = changed.seed != config.seed  # the splits are the same: comparable
        assert (retrained.conditions == first.conditions) is seeds_alone
        folders.add(retrained.folder)
        kept = load_config(retrained.folder / "config.yaml")
        assert (kept.data, kept.seed, kept.latency, kept.retrain, kept.space) == (
            changed.data, changed.seed, changed.latency, changed.retrain, changed.space
        )  # fmt: skip
    assert len(folders) == 1 + len(others)
    assert {f: f.read_bytes() for f in files} == files
    data = {"name": "images", "root": str(photos), "memory_limit_mb": 0, "loading_workers": 0}
    faster = photo_config(photos, data=data)
    assert retrain_architecture(faster, Workspace(tmp_path), ARCHITECTURE, "n") == first
    assert comparable(first) == []


PLUGIN = """\
from torch import nn
from search_space import register_operator


@register_operator("of_a_plugin")
def of_a_plugin(in_channels, out_channels, stride):
    return nn.Conv2d(in_channels, out_channels, 1, stride)
"""


def test_an_operator_of_ones_own_belongs_to_the_identity(photos, tmp_path, monkeypatch) -> None:
    one_program(monkeypatch)
    plugin = tmp_path / "own.py"
    plugin.write_text(PLUGIN)
    config = photo_config(photos)
    candidates = {**config.space.candidates, "own": {"operator": "of_a_plugin"}}
    space = dataclasses.replace(config.space, candidates=candidates)
    config = dataclasses.replace(config, space=space, plugins=(str(plugin),))
    architecture = ("own", *ARCHITECTURE[1:])
    first = retrain(config, tmp_path / "run", architecture)
    assert retrain(config, tmp_path / "run", architecture) == first
    plugin.write_text(PLUGIN.replace("1, stride", "3, stride, 1"))
    assert retrain(config, tmp_path / "run", architecture).folder != first.folder


def test_what_is_inherited_belongs_to_the_identity(photos, tmp_path, monkeypatch) -> None:
    one_program(monkeypatch)
    config = photo_config(
        photos, retrain={"epochs": 1, "batch_size": 32, "inherit": True, "learning_rate": 1e-3}
    )
    workspace = kept_workspace(config, tmp_path)
    with pytest.raises(UserError, match="there is no trained supernet"):
        retrain(config, tmp_path)
    folders = set()
    for seed in (0, 1):
        save_weights(workspace.weights, new_supernet(dataclasses.replace(config, seed=seed)))
        network = retrain_architecture(config, workspace, ARCHITECTURE, "n")
        assert network.inherited
        assert comparison([network]).title == "Fine-tuned from the supernet"
        folders.add(network.folder)
    assert len(folders) == 2
    other = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=99))
    with pytest.raises(UserError, match=r"retrain.inherit: .*train.epochs"):
        retrain_architecture(other, workspace, ARCHITECTURE, "n")


def test_seeds_share_the_splits_and_nothing_else(photos, tmp_path, monkeypatch) -> None:
    one_program(monkeypatch)
    config = photo_config(photos, retrain={"epochs": 1, "batch_size": 32, "seeds": 2})
    splits = load_splits(config, "cpu", batch_size=32)
    first, second = (dataclasses.replace(splits.train, seed=seed) for seed in (0, 1))
    batches = [torch.cat([labels for _, labels in train.epoch(0)]) for train in (first, second)]
    assert not torch.equal(*batches)
    network = retrain(config, tmp_path)
    states = [torch.load(network.folder / f"seed-{seed}" / "checkpoint.pt") for seed in (0, 1)]
    a, b = (state["model"]["stages.0.0.reduce.0.weight"] for state in states)
    assert not torch.equal(a, b)
    assert network.seeds == [0, 1] and len(network.test_accuracies) == 2
    assert comparison([network]).title == "Retrained from scratch"


def test_a_missing_runtime_is_refused_before_anything_is_trained(photos, tmp_path) -> None:
    config = photo_config(photos, latency={"runtime": "gone"})
    with pytest.raises(UserError, match="'gone'"):
        retrain_architecture(config, Workspace(tmp_path), ARCHITECTURE, "n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("architecture", "plain"),
    [
        (("conv3",) * 4, True),
        (("conv3", "conv3", "conv3", "skip"), True),  # of another depth
        (("inv3",) * 4, True),
        (("conv3", "conv3", "inv3", "inv3"), False),
        (ARCHITECTURE, False),
    ],
)
def test_a_plain_network_has_one_candidate_throughout(architecture, plain: bool) -> None:
    values = space_values(candidates=("conv3", "inv3", "skip"))
    assert is_plain(SearchSpace.from_dict({"space": values}), architecture) is plain


def network(name: str, accuracy: float, latency: float | None, plain: bool = False) -> Retrained:
    metrics = {"accuracy": 100 - accuracy, "validation_accuracy": accuracy}  # tested otherwise
    return Retrained(
        name=name, folder=Path(name), architecture=(name,), seeds=[0], test_accuracies=[1.0],
        metrics=metrics if latency is None else {**metrics, "latency_ms": latency}, latencies={},
        class_names=[], conditions="equal", plain=plain, inherited=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("accuracy", "latency", "how"),
    [
        (70, 2.0, "better and faster"),
        (66, 2.0, "faster"),
        (70, 3.5, "better"),
        (65, 2.0, None),
        (70, 4.0, None),
        (66, 3.5, None),
        (70, None, None),
    ],
)
def test_nothing_is_ready_to_ship_that_a_plain_network_dominates(
    accuracy: float, latency: float | None, how: str | None
) -> None:
    hybrid, plain = network("best", 66, 3.5), network("all-convolution", accuracy, latency, True)
    better = better_plain(hybrid, [plain, network("another", 90, 1.0)])  # no plain one
    message = verdict(hybrid, better)
    if how is None:
        assert message == "Ready to ship: best"
    else:
        assert f"the all-convolution network is {how}: {accuracy:.2f} % at" in message
        assert "66.00 % at 3.5 ms" in message and "Ready to ship" not in message


def test_the_baseline_can_be_the_champion(photos, tmp_path, monkeypatch) -> None:
    """All networks of one recipe and the same data are compared, baselines included."""
    one_program(monkeypatch)
    config = photo_config(photos)
    workspace = kept_workspace(config, tmp_path)
    with open_tracker(config, workspace) as tracker:
        networks = [
            retrain_architecture(config, workspace, architecture, name, tracker)
            for architecture, name in ((ARCHITECTURE, "best"), (("conv3",) * 4, "all-convolution"))
        ]
        assert comparable(networks[0]) == [networks[1]] and networks[1].plain
        for validated, one in zip((40.0, 60.0), networks):
            changed = dataclasses.replace(
                one, metrics={**one.metrics, "validation_accuracy": validated, "accuracy": 50.0}
            )
            changed.write()
            register(config, changed, tracker)
    assert champion_of(tracker) == "60.0"


def champion_of(tracker: Tracker) -> str:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tracker.journal.directory / 'mlflow.db'}")
    version = client.get_model_version_by_alias("evolute-photos", "champion")
    return version.tags["validation_accuracy"]
