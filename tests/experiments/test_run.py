"""The whole pipeline on real parts: images in, a registered network out, and again."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import optuna
import pytest
import torch
import yaml
from spaces import random_images
from trainings import one_program

from configs import Config, UserError, load_config
from evaluators.metric import METRICS
from experiments import cli
from experiments.evaluator import SupernetEvaluator
from experiments.finished import what_was_said
from experiments.retrained import Retrained
from experiments.run import run_pipeline
from experiments.search import search_architectures
from experiments.serving import Classifier
from experiments.ui import free_port
from experiments.workspace import Workspace, open_workspace
from search.storage import storage_url
from search_space import build_network, load_architecture
from supernet.checkpoint import load_weights

ROOT = Path(__file__).parents[2]
CIFAR10 = ROOT.parent / "shared" / "data" / "cifar10"
TRIALS = 10  # of 12 networks; the hypervolume's reference point is fixed by ten
CONFIG = f"""\
name: tiny
device: cpu
space:
  input_size: 8
  in_channels: 1
  stem: {{width: 8}}
  candidates:
    conv3: {{operator: convolution}}
    inv3: {{operator: involution, kernel_size: 3}}
    skip: {{operator: skip}}
  stages:
    - {{width: 16, depth: 2, expansion: 2}}
    - {{width: 16, depth: 1, stride: 2, expansion: 2}}
data: {{name: images, root: digits, crop_padding: 1}}
train: {{epochs: 2, batch_size: 48}}
evaluate: {{calibration_images: 64, batch_size: 64}}
latency: {{repeats: 6, max_spread: 10}}
search: {{trials: {TRIALS}, profile_samples: 2}}
verify: {{budget: 1.5}}
retrain: {{epochs: 2, batch_size: 32}}
"""


def write_digits(root: Path) -> list[Path]:
    """300 real digits to train on, and 100 to test on; gives the files of the latter."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    tested = []
    for index, (pixels, label) in enumerate(zip(digits.images[:400], digits.target)):
        folder = root / ("train" if index < 300 else "test") / f"digit{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 255 / 16).astype(np.uint8)).save(folder / f"{index}.png")
        if index >= 300:
            tested.append(folder / f"{index}.png")
    return tested


@dataclass
class Story:
    """What happened to one work directory."""

    folder: Path
    config: Config
    refusal: str  # of the first run, in which no test image could be read
    after_refusal: dict[Path, int]  # what was on disk then
    searched: list[tuple]  # and in the study
    winner: Retrained
    baseline: Retrained

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.folder / "runs" / "tiny")

    @property
    def networks(self) -> dict[Path, Retrained]:
        """One or two: the search may have found the baseline."""
        return {network.folder: network for network in (self.winner, self.baseline)}

    def mlflow(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(f"sqlite:///{self.folder / 'runs' / 'mlflow.db'}")

    def tracked(self) -> list[Any]:
        client = self.mlflow()
        (experiment,) = [e for e in client.search_experiments() if e.name == "evolute"]
        return client.search_runs([experiment.experiment_id])


def times(workspace: Workspace) -> dict[Path, int]:
    """When each result was written: supernet and retrained networks."""
    folders = (workspace.weights.parent, workspace.retrained)
    files = [f for folder in folders for f in folder.rglob("*") if f.is_file()]
    return {file: file.stat().st_mtime_ns for file in files}


def trials(workspace: Workspace) -> list[tuple]:
    """Number, values and parameters of all trials of the study."""
    import optuna

    name = load_config(workspace.config).name
    loaded = optuna.load_study(study_name=name, storage=f"sqlite:///{workspace.study}")
    return [(t.number, t.state.name, t.values, str(t.params)) for t in loaded.trials]


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """One Ray for all searches of this file: `run_search` uses the one that runs."""
    from search.executors.ray_session import ray_session

    with ray_session(None, workers=1, cpus_per_worker=1, gpus_per_worker=0):
        yield


@pytest.fixture(scope="module")
def story(ray, tmp_path_factory) -> Iterator[Story]:
    """The test images are unreadable until the search is done. All paths are relative ones."""
    folder = tmp_path_factory.mktemp("pipeline")
    tested = write_digits(folder / "digits")
    whole = [file.read_bytes() for file in tested]
    for file in tested:
        file.write_bytes(b"not to be looked at")
    (folder / "tiny.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        config = load_config("tiny.yaml")
        with pytest.raises(UserError) as caught:
            run_pipeline(config)
        workspace = Workspace(folder / "runs" / "tiny")
        after_refusal, searched = times(workspace), trials(workspace)
        assert (workspace.report / "front.csv").exists()
        for file, content in zip(tested, whole):
            file.write_bytes(content)
        winner, baseline = run_pipeline(config)
        yield Story(folder, config, str(caught.value), after_refusal, searched, winner, baseline)


def test_the_search_never_sees_the_test_split(story: Story) -> None:
    assert "digits/test/digit" in story.refusal and "can't be read" in story.refusal
    # everything before the retraining was done by then, and stays
    assert story.workspace.weights in story.after_refusal
    now = times(story.workspace)
    supernet = [f for f in story.after_refusal if "supernet" in f.parts]
    assert all(now[file] == story.after_refusal[file] for file in supernet)
    assert [state for _, state, *_ in story.searched] == ["COMPLETE"] * TRIALS
    assert trials(story.workspace) == story.searched


def test_judging_a_network_leaves_the_number_of_threads(story: Story) -> None:
    """Workers are given one thread each; what the driver trains afterwards must have them all."""
    search = dataclasses.replace(story.config.search, workers=2)
    config = dataclasses.replace(
        story.config,
        search=search,
        data=dataclasses.replace(story.config.data, root=str(story.folder / "digits")),
    )
    evaluator = SupernetEvaluator(config, story.workspace)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        metrics = evaluator(("conv3", "inv3", "conv3"))
        assert metrics["latency_ms"] > 0 and 0 <= metrics["accuracy"] <= 100
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_what_is_on_disk(story: Story) -> None:
    directory = story.workspace.directory
    assert (directory.parent / "mlflow.db").exists() and not (directory / "mlflow.db").exists()
    for file in ("config.yaml", "study.db", "evolute.log",
                 "supernet/weights.safetensors", "supernet/curves.png", "report/front.csv",
                 "report/front.png", "report/report.html", "report/architectures.png",
                 "report/trials.csv", "report/front/0/architecture.yaml"):  # fmt: skip
        assert (directory / file).stat().st_size > 0, file
    for network in (story.winner, story.baseline):
        for file in ("architecture.yaml", "weights.safetensors", "metrics.json", "model.onnx",
                     "model-dynamic.onnx", "curves.png", "fingerprint.json"):  # fmt: skip
            assert (directory.parent.parent / network.folder / file).stat().st_size > 0
    assert story.baseline.architecture == ("conv3",) * 3
    assert not list(directory.rglob("*.partial*"))
    assert not list(directory.rglob("*.pkl"))


def test_what_is_shipped_works_alone(story: Story) -> None:
    folder = story.folder / story.winner.folder
    space, architecture = load_architecture(folder / "architecture.yaml")
    network = build_network(space, architecture)
    load_weights(folder / "weights.safetensors", network)
    network.eval()
    for file, batch in (("model.onnx", 1), ("model-dynamic.onnx", 1), ("model-dynamic.onnx", 5)):
        session = onnxruntime.InferenceSession(str(folder / file))
        images = random_images(batch)
        (logits,) = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(logits), network(images),
                                       rtol=1e-3, atol=1e-3)  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["class_names"] == [f"digit{n}" for n in range(10)]
    assert metrics["accuracy"] == story.winner.metrics["accuracy"]
    # the test accuracy again, from files alone
    from experiments.data.splits import load_splits
    from experiments.evaluator import SupernetEvaluator

    config = SupernetEvaluator(story.config, story.workspace).config
    splits = load_splits(config, "cpu", batch_size=32, test=True)
    hits = sum(int((network(x).argmax(1) == y).sum()) for x, y in splits.test)
    assert splits.sizes["test"] == 100
    assert metrics["accuracy"] == pytest.approx(hits)


def test_what_mlflow_holds(story: Story) -> None:
    runs = story.tracked()
    kinds = Counter(run.data.tags["evolute.kind"] for run in runs)
    networks = len(story.networks)
    verified = kinds.pop("verify")
    assert kinds == {"search": 1, "supernet": 1, "trial": TRIALS, "retrain": networks}
    with (story.workspace.report / "verified.csv").open() as file:
        assert verified == len(list(csv.DictReader(file))) > 2
    (parent,) = [run for run in runs if run.data.tags["evolute.kind"] == "search"]
    children = [run for run in runs if run is not parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert parent.data.params == {"seed": "0"}  # the configuration is an artifact
    assert parent.data.tags["objectives"] == "cross_entropy latency_ms"
    assert parent.data.tags["fingerprint.runtime"] == "eager"
    metrics = parent.data.metrics
    assert {
        "front_size",
        "best_cross_entropy",
        "hypervolume",
        "winner_test_accuracy",
    } <= metrics.keys()
    client = story.mlflow()
    history = client.get_metric_history(parent.info.run_id, "front_size")
    assert sorted({point.step for point in history}) == list(range(1, TRIALS + 1))
    with (story.workspace.report / "trials.csv").open() as file:
        seconds = {f"trial-{row['number']}": float(row["seconds"]) for row in csv.DictReader(file)}
    for run in children:
        if run.data.tags["evolute.kind"] == "trial":
            assert {"accuracy", "latency_ms", "params", "macs"} <= run.data.metrics.keys()
            assert run.data.metrics.keys() <= METRICS.keys()
            assert all(len(f"{value:.10g}") <= 9 for value in run.data.metrics.values())
            assert sorted(run.data.params) == [f"layer_{i:02d}" for i in range(3)]
            line = run.data.tags["mlflow.note.content"]
            assert line.startswith(" ".join(run.data.params[f"layer_{i:02d}"] for i in range(3)))
            took = (run.info.end_time - run.info.start_time) / 1000
            assert 0 < took < 5 + seconds[run.info.run_name] < 5 + 1.01 * took
    files = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert {"config.yaml", "report"} <= files
    report = {item.path for item in client.list_artifacts(parent.info.run_id, "report")}
    assert {"report/front.png", "report/report.html", "report/architectures.png"} <= report


def test_what_mlflow_says_of_the_result(story: Story) -> None:
    """The parent's description is the result; members of the front are tagged, and no others."""
    runs = story.tracked()
    (parent,) = [run for run in runs if run.data.tags["evolute.kind"] == "search"]
    with (story.workspace.report / "front.csv").open() as file:
        front = list(csv.DictReader(file))
    described = parent.data.tags["mlflow.note.content"]
    assert all(member["architecture"] in described for member in front)
    assert re.search(r"\d\d\.\d+ ± \d", described) and "evolute retrain --search" in described
    assert re.match("A hybrid wins|No hybrid wins|Hybrids neither", described)
    tagged = {run.info.run_name for run in runs if run.data.tags.get("front")}
    numbers = {int(member["number"]) for member in front}
    names = {run.info.run_name for run in runs}
    assert tagged == {n for k in numbers for n in (f"trial-{k}", f"verify-{k}") if n in names}
    for run in runs:
        if run.data.tags.get("front"):
            files = {item.path for item in story.mlflow().list_artifacts(run.info.run_id)}
            assert {"architecture.yaml", "architecture.png"} <= files
    experiment = story.mlflow().get_experiment_by_name("evolute")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_the_champion(story: Story) -> None:
    versions = story.mlflow().search_model_versions("name='evolute-tiny'")
    assert len(versions) == len(story.networks)  # the baseline too
    version = story.mlflow().get_model_version_by_alias("evolute-tiny", "champion")
    best = max(story.networks.values(), key=lambda network: network.metrics["validation_accuracy"])
    accuracies = {float(v.tags["validation_accuracy"]) for v in versions}
    assert float(version.tags["validation_accuracy"]) == max(accuracies)
    assert max(accuracies) == best.metrics["validation_accuracy"]
    card = (best.folder / "README.md").read_text()  # a page of MLflow's can't show its picture
    assert version.description == re.sub(r"^!\[.*\n", "", card, flags=re.M) != card
    (run,) = [r for r in story.tracked() if r.info.run_id == version.run_id]
    assert run.data.tags["evolute.kind"] == "retrain"
    files = {f.path for f in story.mlflow().list_artifacts(run.info.run_id, "model")}
    shipped = ("architecture.yaml", "weights.safetensors", "model.onnx", "model-dynamic.onnx")
    assert {f"model/{file}" for file in shipped} <= files


@pytest.fixture
def store(story: Story, monkeypatch) -> str:
    """The story's MLflow store, as that of this process."""
    uri = f"sqlite:///{story.folder / 'runs' / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", uri)
    return uri


def jpeg(image: Path) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.open(image).save(file, "JPEG", quality=95)
    return file.getvalue()


def test_mlflow_loads_the_champion(story: Story, store: str) -> None:
    """Images of any size and type come out as classes, as from the network itself."""
    import mlflow
    import pandas as pd
    from PIL import Image

    model = mlflow.pyfunc.load_model("models:/evolute-tiny@champion")
    assert model.metadata.signature.inputs.input_names() == ["image"]
    images = sorted((story.folder / "digits" / "test").rglob("*.png"))[:8]
    arrays = [np.asarray(Image.open(image)) for image in images]
    answers = model.predict(pd.DataFrame({"image": [jpeg(image) for image in images]}))
    whole = model.predict(pd.DataFrame({"image": arrays}))
    floats = model.predict(pd.DataFrame({"image": [array / 255 for array in arrays]}))
    large = [np.kron(array, np.ones((3, 3), np.uint8)) for array in arrays]
    larger = model.predict(pd.DataFrame({"image": large}))
    names = model.metadata.metadata["class_names"]
    for table in (answers, whole, floats, larger):
        assert set(table["class"]) <= set(names)
        assert np.allclose([sum(row) for row in table["probabilities"]], 1, atol=1e-5)
    assert floats.equals(whole)
    classifier = Classifier(champion(story))
    assert np.allclose(list(whole["probabilities"]), classifier(images_of(images)), atol=1e-6)
    example = model.input_example if hasattr(model, "input_example") else None
    assert example is not None and len(model.predict(example)) == 1


def champion(story: Story) -> Path:
    """The folder of the network that is most accurate on validation images."""
    networks = story.networks.items()
    return max(networks, key=lambda item: item[1].metrics["validation_accuracy"])[0]


def images_of(files: list[Path]) -> list[Any]:
    from PIL import Image

    return [Image.open(file) for file in files]


def test_mlflow_serves_a_photograph(story: Story, store: str) -> None:
    """`mlflow models serve` answers a JPEG in base64."""
    image = jpeg(sorted((story.folder / "digits" / "test").rglob("*.png"))[0])
    port = free_port("127.0.0.1", 5300)
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    command += ["-m", "models:/evolute-tiny@champion", "--host", "127.0.0.1", "--port", str(port)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # MLflow calls uvicorn
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PATH": path}
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet)
    body = {"dataframe_records": [{"image": base64.b64encode(image).decode()}]}
    question = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )  # fmt: skip
    try:
        answer = _answer(question, server)
    finally:
        server.terminate()
        server.wait()
    (prediction,) = answer["predictions"]
    best = Classifier(champion(story)).best(image)
    assert prediction["class"] == best[0][0]
    assert prediction["probability"] == pytest.approx(best[0][1], abs=1e-5)


def _answer(question: urllib.request.Request, server: subprocess.Popen[bytes]) -> Any:
    deadline = time.monotonic() + 400
    while True:
        try:
            with urllib.request.urlopen(question, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read()) from error
        except OSError:
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)


def test_predict(story: Story, monkeypatch, capsys) -> None:
    image = sorted((story.folder / "digits" / "test").rglob("*.png"))[0]
    evolute(monkeypatch, "predict", str(story.winner.folder), str(image))
    assert re.search(r"\.png: digit\d \d+\.\d%, digit\d", capsys.readouterr().out)
    broken = story.folder / "broken.png"
    broken.write_bytes(b"no image")
    folder = str(story.winner.folder)
    said = refused(monkeypatch, capsys, "predict", folder, str(broken))
    assert "broken.png: it is no image" in said
    said = refused(monkeypatch, capsys, "predict", str(story.folder), str(image))
    assert "architecture.yaml" in said


def test_the_model_card(story: Story) -> None:
    for folder, network in story.networks.items():
        card = (folder / "README.md").read_text()
        assert network.accuracy_text in card and " ".join(network.architecture) in card
        assert all(form in card for form in network.latencies)
        assert (folder / "architecture.png").read_bytes().startswith(b"\x89PNG")


def evolute(patch: pytest.MonkeyPatch, *arguments: str) -> None:
    patch.setattr(sys, "argv", ["evolute", *arguments])
    cli.main()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder; Ray and SQLite leave none behind that could change by itself."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def refused(patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *arguments: str) -> str:
    with pytest.raises(SystemExit) as exit_code:
        evolute(patch, *arguments)
    assert exit_code.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "override", "expected"),
    [
        ("search", "search.objectives={accuracy: maximize, params: minimize}", "objectives"),
        ("search", "search.constraints={macs: 10000000}", "constraints.macs"),
        ("search", "search.sampler=random", "sampler was 'surrogate' and is 'random' now"),
        ("search", "evaluate.calibration_images=32", "evaluate.calibration_images was 64"),
        ("search", "latency.batch=2", "fingerprint.batch was 1 and is 2 now"),
        ("search", "search.start=[evolute_rednet26]", "search.start"),
        ("search", "train.epochs=3", "train.epochs was 2 and is 3 now"),
        ("search", "seed=1", "seed was 0 and is 1 now"),
        ("run", "search.objectives={accuracy: maximize, params: minimize}", "objectives"),
        ("run", "space.stages.0.width=24", "space.stages"),
        ("train", "train.epochs=3", "train.epochs was 2 and is 3 now"),
    ],
)
def test_a_refused_command_changes_nothing(
    story: Story, monkeypatch, capsys, command: str, override: str, expected: str
) -> None:
    monkeypatch.setattr(
        "experiments.search.profile_space", lambda *_, **__: pytest.fail("it was profiled")
    )
    before = contents(story.workspace.directory)
    message = refused(monkeypatch, capsys, command, "tiny.yaml", "--set", override)
    assert expected in message
    if command == "search" and not override.startswith(("train", "seed", "search.start")):
        assert "evolute search ... --study NAME" in message  # the way that exists
    assert contents(story.workspace.directory) == before


@pytest.mark.parametrize("metric", ["macs", "latency_ms"])
def test_a_bound_that_nothing_keeps_is_refused_and_changes_nothing(
    story: Story, monkeypatch, capsys, metric: str
) -> None:
    before = contents(story.workspace.directory)
    bound = {"macs": "10", "latency_ms": "0.0001"}[metric]
    message = refused(monkeypatch, capsys, "search", "tiny.yaml", "--study", "bounded",
                      "--set", f"search.constraints.{metric}={bound}")  # fmt: skip
    proved = "can't be met" if metric == "macs" else "no architecture that keeps it was found"
    assert f"constraints.{metric}" in message and proved in message
    assert contents(story.workspace.directory) == before


def test_a_deleted_checkpoint_does_not_unlock_what_the_weights_were_trained_with(
    story: Story, monkeypatch
) -> None:
    checkpoint = story.workspace.checkpoint
    aside = checkpoint.rename(checkpoint.with_suffix(".aside"))
    try:
        for override in ("seed=1", "train.epochs=3", "data.crop_padding=0"):
            with pytest.raises(UserError, match=override.partition("=")[0]):
                open_workspace(load_config("tiny.yaml", [override]))
    finally:
        aside.rename(checkpoint)


def test_new_objectives_are_a_new_study_on_the_same_supernet(
    story: Story, monkeypatch, capsys
) -> None:
    before = contents(story.workspace.directory)
    trained = times(story.workspace)
    evolute(monkeypatch, "search", "tiny.yaml", "--study", "small",
            "--set", "search.objectives={accuracy: maximize, params: minimize}",
            "--set", "search.trials=4", "--set", "search.verify=false",
            "--workers", "0")  # fmt: skip
    printed = capsys.readouterr().out
    directory = story.workspace.directory / "studies" / "small"
    next_command = f"evolute retrain --search {Path('runs/tiny/studies/small')} --pick knee"
    assert next_command in printed
    changing = ("study.db",)  # shared by all studies
    now = contents(story.workspace.directory)
    assert all(now[file] == content for file, content in before.items()
               if not file.startswith(changing))  # fmt: skip
    assert times(story.workspace) == trained  # nothing was trained
    for file in ("config.yaml", "report/front.csv", "report/trials.csv"):
        assert (directory / file).exists()
    evolute(monkeypatch, *next_command.split()[1:], "--set", "retrain.epochs=1")
    (folder,) = (directory / "retrained").iterdir()
    assert (folder / "weights.safetensors").exists()
    assert times(story.workspace) == trained


def test_the_winner_was_verified(story: Story) -> None:
    """What is picked was trained alone, and no verified network is better and as fast."""
    with (story.workspace.report / "verified.csv").open() as file:
        rows = {tuple(row["architecture"].split()): row for row in csv.DictReader(file)}
    finished = [row for row in rows.values() if row["state"] == "verified"]
    picked = rows[tuple(story.winner.architecture)]
    assert picked in finished
    assert float(picked["accuracy"]) == max(float(row["accuracy"]) for row in finished)


def test_the_study_has_the_result_as_its_note_in_optuna_dashboard(story: Story) -> None:
    dashboard = pytest.importorskip("optuna_dashboard")
    storage = storage_url(story.workspace.study)
    names = optuna.get_all_study_names(storage)
    studies = [optuna.load_study(study_name=name, storage=storage) for name in names]
    notes = [dashboard.get_note(study) for study in studies]
    assert any("evolute retrain" in note and "| index |" in note for note in notes)


def test_running_it_again_changes_nothing(story: Story) -> None:
    files, before, tracked = times(story.workspace), trials(story.workspace), len(story.tracked())
    winner, baseline = run_pipeline(story.config)
    assert (winner, baseline) == (story.winner, story.baseline)
    assert trials(story.workspace) == before
    assert len(story.tracked()) == tracked
    now = times(story.workspace)
    trained = [file for file in files if file.suffix in (".pt", ".safetensors") and
               ("seed-0" in file.parts or "supernet" in file.parts)]  # fmt: skip
    assert len(trained) == 2 + 2 * len(story.networks)
    assert now.keys() == files.keys()
    assert all(now[file] == files[file] for file in trained)

    # and the command says what there is at once, without loading what it would be made with
    everything = contents(story.workspace.directory)
    script = "import sys; from experiments.cli import main; main(); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script, "run", "tiny.yaml"], cwd=story.folder, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=True,
    )  # fmt: skip
    *said, modules = done.stdout.splitlines()
    assert not {"torch", "ray", "mlflow", "optuna", "numpy"} & set(modules.split())
    text = " ".join(" ".join(said).split())
    assert re.search("A hybrid wins|No hybrid wins|Hybrids neither", text)
    assert "Verified front" in text and winner.accuracy_text in text
    assert "Ready to ship" in text or "Not worth shipping" in text
    assert said[-1].endswith(f"evolute ui {Path('runs/tiny')}")
    assert contents(story.workspace.directory) == everything


def test_what_is_not_as_it_was_is_not_said_again(story: Story) -> None:
    run_pipeline(story.config)
    assert what_was_said(story.config)
    speed = dataclasses.replace(story.config.data, loading_workers=1)
    assert what_was_said(dataclasses.replace(story.config, data=speed))  # changes no result
    more = load_config("tiny.yaml", [f"search.trials={TRIALS + 1}"])
    assert what_was_said(more) is None
    assert what_was_said(story.config, Path("runs/tiny/../tiny")) is None  # names another folder
    for file in (story.winner.folder / "model.onnx", story.workspace.summary):
        aside = file.rename(file.with_suffix(".aside"))
        assert what_was_said(story.config) is None
        aside.rename(file)
    finished, kept = story.workspace.finished, story.workspace.finished.read_text()
    finished.write_text(kept[:-9])
    assert what_was_said(story.config) is None  # damaged: moved aside
    finished.with_name("finished.json.damaged").unlink()
    finished.write_text(kept)
    assert what_was_said(story.config)
    store = story.folder / "runs" / "mlflow.db"
    aside = store.rename(store.with_suffix(".aside"))
    assert what_was_said(story.config) is None
    aside.rename(store)
    os.utime(story.workspace.study)
    assert what_was_said(story.config) is None


def test_more_trials_are_added_to_those_that_are_there(story: Story) -> None:
    before = trials(story.workspace)
    config = load_config("tiny.yaml", [f"search.trials={TRIALS + 2}"])
    result = search_architectures(config, story.workspace, None)
    after = trials(story.workspace)
    assert after[:TRIALS] == before
    assert len(after) == TRIALS + 2
    assert [record.number for record in result.trials] == list(range(TRIALS + 2))
    assert len({record.architecture for record in result.trials}) == TRIALS + 2


def test_retrain_a_member_of_the_front(story: Story, monkeypatch, capsys) -> None:
    before = {folder.name for folder in story.workspace.retrained.iterdir()}
    configuration = story.workspace.config.read_bytes()
    evolute(monkeypatch, "retrain", "--search", "runs/tiny", "--pick", "0", "--seeds", "2",
            "--set", "retrain.inherit=true", "--set", "retrain.learning_rate=1e-9")  # fmt: skip
    assert story.workspace.config.read_bytes() == configuration  # the search's stays what it was
    (new,) = {folder.name for folder in story.workspace.retrained.iterdir()} - before
    assert new.startswith("front-0-")
    folder = story.workspace.retrained / new
    assert load_config(folder / "config.yaml").retrain.seeds == 2
    metrics = json.loads((folder / "metrics.json").read_text())
    seeds = [json.loads((folder / f"seed-{n}" / "metrics.json").read_text()) for n in (0, 1)]
    assert metrics["seeds"] == [0, 1]
    assert metrics["test_accuracies"] == [seed["accuracy"] for seed in seeds]
    best = max(seeds, key=lambda seed: seed["validation_accuracy"])  # not by the test split
    assert metrics["seed"] == best["seed"]
    shipped = (folder / "weights.safetensors").read_bytes()
    assert shipped == (folder / f"seed-{best['seed']:.0f}" / "weights.safetensors").read_bytes()
    out = capsys.readouterr().out
    assert "front-0" in out and "Fine-tuned from the supernet" in out
    checkpoints = [torch.load(folder / f"seed-{n}" / "checkpoint.pt") for n in (0, 1)]
    first, second = (checkpoint["model"]["stem.1.running_mean"] for checkpoint in checkpoints)
    assert not torch.equal(first, second)  # other batches, though the start is the supernet

    from experiments.train import load_supernet  # it began with the supernet's weights

    space, architecture = load_architecture(folder / "architecture.yaml")
    network = build_network(space, architecture)
    load_weights(folder / "weights.safetensors", network)
    inherited = load_supernet(story.config, story.workspace).extract(architecture)
    for key, value in network.named_parameters():
        torch.testing.assert_close(value, inherited.get_parameter(key), rtol=1e-4, atol=1e-5)


def test_retrain_an_architecture_file(story: Story, monkeypatch) -> None:
    file = story.workspace.report / "front" / "0" / "architecture.yaml"
    evolute(monkeypatch, "retrain", "tiny.yaml", "--architecture", str(file), "--out", "runs/file",
            "--set", "retrain.epochs=1")  # fmt: skip
    (folder,) = Path("runs/file/retrained").iterdir()
    assert load_architecture(folder / "architecture.yaml") == load_architecture(file)
    assert (folder / "weights.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--search", "runs/tiny", "--pick", "77"], "'77' is no member of the front"),
        (["--search", "runs/gone"], "'runs/gone' is neither a work directory nor a run"),
        ([], "give either --search RUN or --architecture FILE"),
        (["--architecture", "gone.yaml", "tiny.yaml"], "gone.yaml: No such file"),
    ],
)
def test_what_cannot_be_retrained(
    story: Story, monkeypatch, capsys, arguments: list[str], expected: str
) -> None:
    with pytest.raises(SystemExit) as exit_code:
        evolute(monkeypatch, "retrain", *arguments)
    assert exit_code.value.code == 2
    assert expected in capsys.readouterr().err


@pytest.mark.skipif(not CIFAR10.is_dir(), reason=f"there is no CIFAR-10 at {CIFAR10}")
def test_cifar10_cpu_at_a_tiny_size(ray, tmp_path, monkeypatch) -> None:
    one_program(monkeypatch)
    sizes = [
        f"space.stages.{stage}.{key}={value}"
        for stage, (width, depth) in enumerate([(16, 3), (24, 1)])
        for key, value in (("width", width), ("depth", depth))
    ]
    config = load_config(
        "cifar10_cpu",
        [f"data.root={CIFAR10}", "data.limit=160", *sizes, "space.stem.width=8",
         "train.epochs=1", "train.batch_size=64", "evaluate.calibration_images=64",
         "data.validation_fraction=0.3", "search.trials=2", "search.workers=1",
         "search.profile_samples=1", "search.verify=false",
         "latency.repeats=6", "latency.max_spread=10", "retrain.epochs=1"],
    )  # fmt: skip
    winner, baseline = run_pipeline(config, tmp_path / "cifar10")
    values = yaml.safe_load((winner.folder / "architecture.yaml").read_text())
    assert len(values["architecture"]) == 4
    assert set(baseline.architecture) == {"conv3"}
    assert len(trials(Workspace(tmp_path / "cifar10"))) == 2
    for network in (winner, baseline):
        assert 0 < network.metrics["accuracy"] <= 100
        assert network.metrics["latency_ms"] > 0


def test_a_batch_that_retraining_has_no_images_for_is_refused_at_once(tmp_path, monkeypatch):
    write_digits(tmp_path / "digits")
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    config = load_config("tiny.yaml", ["retrain.batch_size=500"])
    with pytest.raises(UserError, match=r"retrain.batch_size: 500 .* 2\d\d training images"):
        run_pipeline(config)
    assert not (tmp_path / "runs" / "tiny" / "supernet" / "weights.safetensors").exists()
