"""Baselines beside a pick: a real run on digits, interrupted once, and its statistics."""

from __future__ import annotations

import csv
import io
import json
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import timm
import yaml
from rich.console import Console
from safetensors.torch import load_file
from scipy import stats
from spaces import small_config
from trainings import one_program

from configs import UserError, config_to_dict
from experiments import baselines, cli
from experiments.baseline_plan import Entry, LatencyOf, describe
from experiments.blueprints import InSpace, OfTimm, timm_models
from experiments.matching import TOLERANCE
from experiments.report import write_result
from experiments.reporting.baselines import (
    Trained,
    baselines_markdown,
    baselines_table,
    paired_difference,
    shown,
    write_baselines,
)
from experiments.retrain import retrain_from_files
from experiments.retrained import read_retrained
from experiments.retraining import SeedTrainings, Setup, new_task
from experiments.workspace import Workspace
from search_space import SearchSpace, load_architecture, save_architecture

PICK = ("conv3", "inv3", "conv3", "inv3")
SEEDS, TRIALS = 2, 10


@dataclass
class Story:
    """A search, and baselines, whose run was interrupted after two trainings, and went on."""

    folder: Path
    done_before: dict[Path, int]  # when the trainings were finished that were done by then
    plan_before: str
    printed: str

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.folder / "out")

    def rows(self) -> list[dict[str, str]]:
        text = (self.workspace.report / "baselines.csv").read_text(encoding="utf-8")
        return list(csv.DictReader(io.StringIO(text)))

    def folder_of(self, name: str) -> Path:
        (found,) = self.workspace.retrained.glob(f"{name}-????????")
        return found

    def runs(self) -> list[Any]:
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{self.workspace.directory / 'mlflow.db'}")
        (experiment,) = [e for e in client.search_experiments() if e.name == "evolute"]
        return client.search_runs([experiment.experiment_id])


def finished(folder: Path) -> dict[Path, int]:
    return {f: f.stat().st_mtime_ns for f in folder.glob("out/retrained/*/seed-*/metrics.json")}


def evolute(patch: pytest.MonkeyPatch, *arguments: str) -> None:
    patch.setattr(sys, "argv", ["evolute", *arguments])
    cli.main()


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("baselines")
    config = small_config(
        data={"name": "digits", "limit": 200},
        train={"epochs": 1, "batch_size": 64},
        evaluate={"calibration_images": 64},
        search={"workers": 0, "trials": TRIALS, "profile_samples": 1},
        retrain={"epochs": 1, "batch_size": 64},
        latency={"max_spread": 10, "repeats": 6},
    )
    (folder / "small.yaml").write_text(yaml.safe_dump(config_to_dict(config)))
    save_architecture(folder / "pick.yaml", SearchSpace(config.space), PICK)
    command = ("retrain", "small.yaml", "--architecture", "pick.yaml", "--seeds", str(SEEDS),
               "--baselines", "--against", "test_resnet", "--out", "out")  # fmt: skip
    train_all = baselines.train_all

    def stopped(trainings, keys, on_done):
        def stop(key, metrics):
            on_done(key, metrics)
            if len(finished(folder)) == 2:
                raise KeyboardInterrupt

        return train_all(trainings, keys, stop)

    with pytest.MonkeyPatch.context() as patch:
        one_program(patch)
        patch.chdir(folder)
        for before in ("train", "search"):
            evolute(patch, before, "small.yaml", "--out", "out")
        patch.setattr(baselines, "train_all", stopped)
        with pytest.raises(SystemExit) as ended:
            evolute(patch, *command)
        assert ended.value.code == 130
        (plan,) = folder.glob("out/retrained/pick-*/baselines.json")
        done, text = finished(folder), plan.read_text()
        patch.setattr(baselines, "train_all", train_all)
        output = Console(file=io.StringIO(), width=80)
        patch.setattr(baselines, "console", output)
        evolute(patch, *command)
        yield Story(folder, done, text, output.file.getvalue())


def test_what_was_trained_before_an_interruption_is_not_trained_again(story: Story) -> None:
    now = finished(story.folder)
    assert len(story.done_before) == 2
    assert all(now[file] == when for file, when in story.done_before.items())
    assert (story.folder_of("pick") / "baselines.json").read_text() == story.plan_before
    assert len(now) == SEEDS * len(story.rows())


def test_each_family_as_many_random_networks_and_the_named_model(story: Story) -> None:
    kinds = Counter(row["kind"] for row in story.rows())
    assert kinds == {"pick": 1, "family": 2, "random": 2, "timm": 1}
    names = [row["network"] for row in story.rows()]
    assert names == ["pick", "convolution", "involution", "random-0", "random-1", "test_resnet"]
    for row in story.rows():
        if row["kind"] == "family":
            network = read_retrained(story.folder_of(row["network"]))
            assert network is not None and network.plain
            space, choices = load_architecture(network.folder / "architecture.yaml")
            used = {space.operator_of(name) for name in choices} - {"skip"}
            assert used == {row["network"]}


def test_all_share_recipe_images_and_seeds(story: Story) -> None:
    networks = [read_retrained(story.folder_of(row["network"])) for row in story.rows()]
    assert len({network.conditions for network in networks if network}) == 1
    assert all(network is not None and network.seeds == [0, 1] for network in networks)
    for row, network in zip(story.rows(), networks):
        assert network is not None
        mean = sum(network.test_accuracies) / SEEDS
        assert float(row["test_accuracy"]) == pytest.approx(mean, abs=1e-3)
        assert float(row["params"]) == pytest.approx(network.metrics["params"], rel=1e-5)


def test_the_plan_is_printed_before_the_results_and_says_what_it_misses(story: Story) -> None:
    plan, _, results = story.printed.partition("Trained by one recipe")
    assert "Plan" in plan and "of training" in plan and "6 networks, 2 seeds each" in plan
    entries = [Entry(**entry) for entry in json.loads(story.plan_before)]
    for entry in entries:
        off = entry.latency_ms / entries[0].latency_ms - 1
        if entry.kind in ("family", "random") and abs(off) > TOLERANCE:
            assert f"{entry.name}: nothing within 5% was found" in plan
    assert "random, best of 2" in results and "pick - it" in results
    tables = [line for line in story.printed.splitlines() if not line.startswith("Not worth")]
    assert max(map(len, tables)) <= 80


def test_a_model_of_timms_has_weights_and_no_architecture(story: Story) -> None:
    folder = story.folder_of("test_resnet")
    assert not (folder / "architecture.yaml").exists()
    about = yaml.safe_load((folder / "timm.yaml").read_text())
    model = timm.create_model(
        about["model"], num_classes=about["num_classes"], in_chans=about["in_chans"]
    )
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    assert (folder / "model.onnx").exists()


def test_what_mlflow_holds(story: Story) -> None:
    runs = [run for run in story.runs() if run.data.tags["evolute.kind"] == "retrain"]
    assert len(runs) == SEEDS * 6
    kinds = Counter(run.data.tags.get("baseline", "pick") for run in runs)
    assert kinds == {"pick": 2, "family": 4, "random": 4, "timm": 2}
    assert {run.data.tags["seed"] for run in runs} == {"0", "1"}
    for run in runs:
        assert {
            "test_accuracy",
            "validation_accuracy",
            "loss",
            "seconds",
        } <= run.data.metrics.keys()
        assert run.info.status == "FINISHED"
    timed = [run for run in runs if "latency_ms" in run.data.metrics]
    assert len({run.data.tags["network"] for run in timed}) == 6
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{story.workspace.directory / 'mlflow.db'}")
    (parent,) = [run for run in story.runs() if run.data.tags["evolute.kind"] == "search"]
    files = {item.path for item in client.list_artifacts(parent.info.run_id, "report")}
    assert {"report/baselines.csv", "report/baselines.md"} <= files


def test_the_page_has_all_that_was_run_and_says_what_is_missing(story: Story) -> None:
    page = write_result(story.workspace.directory, story.folder / "page.md").read_text()
    for row in story.rows():
        assert f"| {row['network']} | {row['kind']} |" in page
    assert "evolute retrain small.yaml --architecture pick.yaml" in page
    assert page.count("evolute retrain small.yaml") == 1  # though it was run twice
    with (story.workspace.report / "front.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            assert f"| {row['architecture']} |" in page
    for layer in range(len(PICK)):
        assert page.count(f"| {layer} (stage") == 2  # where it was chosen, and what it brought
    assert f"| search, trials | {TRIALS} |" in page
    assert f"| retraining, seeds | {SEEDS * len(story.rows())} |" in page
    assert any(said in page for said in ("paired over 2 seeds", "no test", "no plain network"))
    assert "evolute rank CONFIG --networks 40" in page
    assert "No supernet was tracked" not in page and "No baseline was trained" not in page
    assert "![The front and the networks that were trained](page.png)" in page
    assert (story.folder / "page.png").stat().st_size > 5000
    numbers = json.loads((story.folder / "page.json").read_text())
    assert len(numbers["trials"]) == TRIALS and len(numbers["retrained"]) == len(story.rows())
    means = {n["name"]: sum(n["test"].values()) / SEEDS for n in numbers["retrained"]}
    for row in story.rows():
        assert float(row["test_accuracy"]) == pytest.approx(means[row["network"]], rel=1e-5)
    for private in (str(story.folder), socket.gethostname(), "/tmp"):
        assert private not in page


def test_the_page_comes_from_mlflow_alone(story: Story, tmp_path) -> None:
    """A folder with the database and nothing else gives the same page."""
    directory = story.workspace.directory
    page = write_result(directory, tmp_path / "page.md")
    alone = tmp_path / "out"
    alone.mkdir()
    (alone / "mlflow.db").write_bytes((directory / "mlflow.db").read_bytes())
    other = write_result(alone, tmp_path / "other" / "page.md")
    assert other.read_text() == page.read_text()
    assert other.with_suffix(".png").read_bytes() == page.with_suffix(".png").read_bytes()


def test_the_other_members_of_the_front_can_be_trained_too(story: Story) -> None:
    """The whole front, from fresh, and how the search had ordered it; their folders are shared."""
    output = Console(file=io.StringIO(), width=200)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(story.folder)
        patch.setattr(baselines, "console", output)
        evolute(patch, "retrain", "--search", "out", "--front")
    with (story.workspace.report / "front.csv").open(encoding="utf-8", newline="") as file:
        front = [row["architecture"] for row in csv.DictReader(file)]
    kinds = Counter(row["kind"] for row in story.rows())
    assert kinds == {"pick": 1, **({"front": len(front) - 1} if len(front) > 1 else {})}
    printed = output.file.getvalue()
    expected = "Order of" if len(front) > 2 else "An order is told of three networks or more"
    assert expected in printed
    page = write_result(story.workspace.directory, story.folder / "front.md").read_text()
    if len(front) > 2 and (story.workspace.report / "verified.csv").exists():
        assert f"Of the {len(front)} verified networks that were retrained" in page


def test_a_file_has_no_front(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="--front needs --search"):
        retrain_from_files("quickstart", None, "best", "pick.yaml", None, [], None, front=True)


def test_a_folder_without_a_search_has_no_page(tmp_path) -> None:
    with pytest.raises(UserError, match="nothing was tracked there"):
        write_result(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_worker_gets_no_images_and_trains_the_same(story: Story) -> None:
    """What is sent to one is small; its answer is that of this process, bit for bit."""
    import cloudpickle

    config = small_config(
        data={"name": "digits", "limit": 200}, retrain={"epochs": 1, "batch_size": 64},
        latency={"max_spread": 10, "repeats": 6},
    )  # fmt: skip
    setup = Setup(config, Workspace(story.folder / "elsewhere"))
    task = new_task(setup, "tiny", OfTimm("test_resnet", 10, 1))
    sent = cloudpickle.dumps(SeedTrainings(setup, [task]))
    assert len(sent) < 20_000
    metrics = cloudpickle.loads(sent)((task.folder.name, "0"))
    theirs = json.loads((story.folder_of("test_resnet") / "seed-0" / "metrics.json").read_text())
    assert metrics["accuracy"] == theirs["accuracy"]
    mine, other = (
        load_file(folder / "seed-0" / "weights.safetensors")
        for folder in (task.folder, story.folder_of("test_resnet"))
    )
    assert all((mine[key] == other[key]).all() for key in mine)


@pytest.mark.parametrize(
    ("names", "expected"),
    [("resnet81", "did you mean"), ("test_vit", "cannot take images of 1x8x8")],
)
def test_a_model_that_cannot_be_trained_is_refused_first(names: str, expected: str) -> None:
    with pytest.raises(UserError, match=f"--against: .*{expected}"):
        timm_models(f"test_resnet, {names}", SearchSpace(small_config().space))


def test_inherited_weights_and_baselines_exclude_each_other(tmp_path) -> None:
    config = small_config(retrain={"inherit": True})
    with pytest.raises(UserError, match=r"retrain.inherit: true is not possible with baselines"):
        baselines.retrain_beside(config, Workspace(tmp_path), PICK, "pick")
    assert not list(tmp_path.iterdir())


def trained(name: str, kind: str, test: list[float], **changes: Any) -> Trained:
    seeds = dict(enumerate(test))
    values = {"plain": False, "validation": seeds, "latency_ms": 1.0, "params": 1e5, "macs": 1e6}
    return Trained(name=name, kind=kind, test=seeds, **{**values, **changes})


def test_a_difference_is_paired_by_seed() -> None:
    ours = trained("pick", "pick", [70.0, 72.0, 71.0])
    theirs = trained("conv", "family", [69.0, 71.5, 70.1, 99.0])  # one seed more
    found = paired_difference(ours, theirs)
    assert found.points == pytest.approx(0.8)
    assert found.seeds == 3
    expected = stats.ttest_1samp([1.0, 0.5, 0.9], 0).pvalue  # the same test, said otherwise
    assert found.p == pytest.approx(expected)


@pytest.mark.parametrize("test", [[70.0], [70.0, 70.0]])
def test_without_spread_there_is_no_p(test: list[float]) -> None:
    ours = trained("pick", "pick", [71.0] * len(test))
    found = paired_difference(ours, trained("conv", "family", test))
    assert (found.points, found.p) == (1.0, None)
    assert "| +1.00 | - |" in baselines_markdown([ours, trained("conv", "family", test)])


def test_the_best_random_network_is_the_best_on_validation_images(tmp_path) -> None:
    networks = [
        trained("pick", "pick", [70.0, 71.0]),
        trained("random-0", "random", [60.0, 61.0], validation={0: 90.0, 1: 90.0}),
        trained("random-1", "random", [80.0, 81.0], validation={0: 70.0, 1: 70.0}, latency_ms=None),
    ]
    assert [network.name for network in shown(networks)] == ["pick", "random-0"]
    assert "| random, best of 2 | 60.50 ± 0.71 | +10.00 |" in baselines_markdown(networks)
    assert [row.cells for row in baselines_table(networks).columns]  # type: ignore[attr-defined]
    text = write_baselines(networks, tmp_path)[0].read_text()
    assert len(text.splitlines()) == 4 and "random-1,random,false,2,80.5" in text


def test_the_table_fits_a_terminal_of_80_columns() -> None:
    large = {"params": 123456789, "latency_ms": 12.345}
    networks = [
        trained("pick", "pick", [70.0, 71.0]),
        trained("mobilenetv3_small_050", "timm", [60.0, 61.3], **large),
    ]
    output = Console(file=io.StringIO(), width=80)
    output.print(baselines_table(networks))
    lines = output.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 80
    assert any("mobilenetv3_small_050" in line and "123M" in line for line in lines)


def test_a_network_in_words() -> None:
    space = SearchSpace(small_config().space)
    skips = InSpace(space, ("skip",) * len(space.layers))
    assert describe(skips) == "0 of 4 layers"
    assert describe(InSpace(space, PICK)) == "conv3 inv3, 4 of 4 layers"


def test_networks_are_matched_on_a_busy_device(tmp_path: Path) -> None:
    config = small_config(latency={"max_spread": 1e-6})  # no device is as quiet as that
    measure = LatencyOf(Setup(config, Workspace(tmp_path)))
    network = InSpace(SearchSpace(config.space), PICK)
    assert 0 < measure(network) == measure(network)  # measured once
