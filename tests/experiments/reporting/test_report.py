"""The report of a search: pictures, the page, the tables and the folders."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import struct

import numpy as np
import pytest
from rich.console import Console

from experiments.reporting.colours import colours_of, ink_on
from experiments.reporting.orders import agreement
from experiments.reporting.plots import (
    FRONT,
    VERIFIED,
    front_axes,
    plot_architectures,
    plot_curves,
    plot_front,
)
from experiments.reporting.report import write_report
from experiments.reporting.search_page import search_html
from experiments.reporting.tables import front_table
from experiments.reporting.verified import VerifiedNetwork
from search.goal import Goal
from search.trials import SearchResult, TrialRecord
from search_space import ChoiceSpace, SearchSpace, load_architecture

GOAL = Goal({"accuracy": "maximize", "latency_ms": "minimize"}, {"latency_ms": 1.7})
NASTY = "</script><script>document.title='taken'</script>&\u2028"


def record(number: int, architecture=("conv3",), **metrics: float) -> TrialRecord:
    return TrialRecord(number, tuple(architecture), metrics, "complete")


@pytest.fixture(scope="module")
def space():
    return SearchSpace.from_yaml("quickstart")


@pytest.fixture(scope="module")
def result(space):
    """Forty trials of every state on a space with networks."""
    rng = np.random.default_rng(0)
    trials = []
    for number in range(40):
        architecture = space.sample(rng)
        latency = float(rng.uniform(0.5, 2.0))
        metrics = {"params": 1e5 * latency, "macs": 2e7 * latency, "latency_ms": latency}
        if latency > 1.7:
            trials.append(TrialRecord(number, architecture, metrics, "infeasible", "too slow"))
            continue
        accuracy = 90 + 4 * latency + float(rng.normal())
        metrics |= {"accuracy": accuracy, "latency_spread": 0.05}
        trials.append(TrialRecord(number, architecture, metrics, "complete", "", 0.5))
    failed = {"params": float("nan")}
    trials.append(TrialRecord(40, space.sample(rng), failed, "failed", NASTY))
    front = GOAL.front(trials)
    assert len(front) >= 3
    return SearchResult(trials, front, GOAL, "digits", None)


def png_size(path) -> tuple[int, int]:
    """Width and height from a PNG's header."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and data[-8:-4] == b"IEND"
    return struct.unpack(">II", data[16:24])


def page_data(path) -> dict:
    """The data of a page, read as a browser would: up to the first end of the script element."""
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL
    )
    return json.loads(found.group(1))


def test_the_report_has_every_file_and_the_front_can_be_built_from_it(result, space, tmp_path):
    stale = tmp_path / "front" / "99" / "architecture.yaml"
    stale.parent.mkdir(parents=True)
    stale.write_text("an earlier, larger front")
    files = write_report(result, space, tmp_path)
    assert not stale.exists()
    assert all(file.stat().st_size > 0 for file in files)
    assert {str(file.relative_to(tmp_path)) for file in files} == {
        "front.csv",
        "trials.csv",
        "front.png",
        "report.html",
        "architectures.png",
        "counting.png",
        "course.png",
        *(
            f"front/{index}/architecture.{kind}"
            for index in range(len(result.front))
            for kind in ("yaml", "png")
        ),
    }
    for index, member in enumerate(result.front):
        loaded, architecture = load_architecture(tmp_path / f"front/{index}/architecture.yaml")
        assert architecture == member.architecture
        assert loaded.layers == space.layers
    with (tmp_path / "front.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["accuracy"]) for row in rows] == [
        member.metrics["accuracy"] for member in result.front
    ]
    assert [row["index"] for row in rows] == [str(i) for i in range(len(rows))]
    with (tmp_path / "trials.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(result.trials)
    assert rows[40]["state"] == "failed" and rows[40]["message"] == NASTY
    infeasible = next(row for row in rows if row["state"] == "infeasible")
    assert infeasible["accuracy"] == "" and infeasible["architecture"].count(" ") == 3


def test_a_space_without_networks_has_a_report_too(tmp_path):
    space = ChoiceSpace([("a", "b"), ("a", "c")])
    trials = [record(0, "ab", accuracy=50.0), record(1, "ac", accuracy=60.0)]
    result = SearchResult(trials, trials[1:], Goal({"accuracy": "maximize"}), "table", None)
    files = write_report(result, space, tmp_path)
    assert not (tmp_path / "front").exists() and len(files) == 6
    assert not (tmp_path / "counting.png").exists()  # nothing was counted
    assert front_axes(result.goal.objectives) == ("number", "accuracy")


def test_pictures_are_pngs_of_the_right_size(result, space, tmp_path):
    width, height = png_size(plot_front(result, tmp_path / "front.png"))
    assert (width, height) == (1080, 690)
    few = png_size(plot_architectures(result.front[:1], space, tmp_path / "few.png"))
    many = png_size(plot_architectures(result.front * 4, space, tmp_path / "many.png"))
    assert few[0] == many[0] and many[1] > few[1] + 100, "one row per architecture"
    history = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "accuracy": 50.0}]
    one = png_size(plot_curves(history[:1], tmp_path / "one.png"))
    two = png_size(plot_curves(history, tmp_path / "two.png"))
    assert two[0] == 2 * one[0], "one panel per unit"


def test_stopped_trials_are_shown_where_they_were_read(result, space, tmp_path) -> None:
    first = next(record for record in result.trials if record.state == "complete")
    stopped = dataclasses.replace(first, number=999, state="stopped", message="trial 1 is better")
    raced = dataclasses.replace(result, trials=[*result.trials, stopped])
    pictures = []
    for drawn, name in ((result, "plain.png"), (raced, "raced.png")):
        pictures.append(plot_front(drawn, tmp_path / name).read_bytes())
    assert pictures[0] != pictures[1]
    write_report(raced, space, tmp_path / "report")
    with (tmp_path / "report" / "trials.csv").open() as file:
        (row,) = [row for row in csv.DictReader(file) if row["number"] == "999"]
    assert row["state"] == "stopped" and float(row["accuracy"]) == first.metrics["accuracy"]
    assert "trial 1 is better" in (tmp_path / "report" / "report.html").read_text()


def test_a_picture_of_an_empty_or_fully_infeasible_search_can_be_drawn(result, space, tmp_path):
    rejected = [record for record in result.trials if record.state == "infeasible"]
    empty = dataclasses.replace(result, trials=rejected, front=[])
    assert png_size(plot_front(empty, tmp_path / "front.png")) == (1080, 690)
    assert page_data(search_html(empty, space, tmp_path / "report.html"))["trials"]
    assert png_size(plot_architectures([], space, tmp_path / "none.png"))[1] > 0


def test_the_picture_shows_the_colours_of_the_candidates(space, tmp_path):
    from matplotlib.image import imread

    architecture = tuple(layer.candidates[0] for layer in space.layers)
    path = plot_architectures([record(0, architecture, accuracy=1.0)], space, tmp_path / "a.png")
    pixels = (imread(path)[:, :, :3] * 255).round().astype(int).reshape(-1, 3)
    colour = colours_of(space)[architecture[0]]
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    assert (pixels == rgb).all(axis=1).mean() > 0.02


def test_the_page_stands_alone_and_runs_nothing_it_was_given(result, space, tmp_path):
    hostile = dataclasses.replace(result, study_name="<img src=x onerror=alert(1)>")
    path = search_html(hostile, space, tmp_path / "report.html")
    text = path.read_text()
    assert "<img" not in text and text.count("&lt;img") >= 2
    assert text.count("</script>") == 2, "those of the page itself"
    assert not re.search(r"(src|href)\s*=\s*[\"']|https?://(?!www\.w3\.org/2000/svg)", text)
    data = page_data(path)
    assert len(data["trials"]) == len(result.trials)
    assert data["trials"][40]["message"] == NASTY
    assert data["trials"][40]["metrics"] == {}, "what is not a number is no metric"
    best = result.front[0]
    shown = next(trial for trial in data["trials"] if trial["front"] == 0)
    assert shown["architecture"] == list(best.architecture)
    assert shown["metrics"]["accuracy"] == best.metrics["accuracy"]


def test_the_page_and_the_tables_show_the_front_as_measured_last(result, space, tmp_path):
    again = [dataclasses.replace(m, metrics={**m.metrics, "latency_ms": 0.125})
             for m in result.front]  # fmt: skip
    data = page_data(
        search_html(dataclasses.replace(result, front=again), space, tmp_path / "report.html")
    )
    members = [trial for trial in data["trials"] if trial["front"] is not None]
    assert {trial["metrics"]["latency_ms"] for trial in members} == {0.125}


def test_every_candidate_has_a_colour_of_its_own_that_does_not_change(space):
    colours = colours_of(space)
    assert len(set(colours.values())) == len(colours) == 7
    plain = colours_of(ChoiceSpace([("inv3", "conv3"), ("skip", "inv7", "mine", "inv5")]))
    assert plain["conv3"] == colours["conv3"] and plain["inv3"] == colours["inv3"]
    assert len({plain["inv3"], plain["inv5"], plain["inv7"]}) == 3
    assert ink_on("#ffffff") == "#000000" and ink_on("#332288") == "#ffffff"
    many = colours_of(ChoiceSpace([[f"mine{index}" for index in range(30)]]))
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in many.values())


def test_the_table_fits_eighty_columns_and_names_every_block(result):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(front_table(result))
    text = console.export_text()
    member = result.front[0]
    half = member.metrics["latency_ms"] * 0.05 / 2
    assert f"{member.metrics['accuracy']:.2f}" in text
    assert f"± {half:.2f}" in text and "…" not in text
    deep = ("conv3", "inv3", "inv7", "sk", "ghost3", "skip") * 3
    deep_member = record(0, deep, accuracy=90.0)
    shown = dataclasses.replace(result, front=[deep_member])
    console.print(front_table(shown))
    text = console.export_text()
    assert "c3 conv3" in text and "c3 i3 i7 sk g3 -- c3" in re.sub(r"\s+", " ", text)


@pytest.fixture(scope="module")
def networks(result) -> list[VerifiedNetwork]:
    """Every second feasible trial, trained alone: half of them to the end, each fourth plain."""
    complete = [record for record in result.trials if record.state == "complete"]
    networks = []
    for index, record in enumerate(complete[::2]):
        again = {"accuracy": 60.0 + index, "accuracy_images": 400.0, "latency_ms": 0.5 + index}
        trained = {"accuracy": 95.0 - index / 8, "accuracy_images": 400.0,
                   "selection_accuracy": 95.5, "seconds": 9.0}  # fmt: skip
        finished = index % 2 == 0
        record = dataclasses.replace(record, again=again if finished else {})
        networks.append(
            VerifiedNetwork(record, trained, index % 4 == 0, 2 if finished else 1, finished)
        )
    return networks


@pytest.fixture(scope="module")
def verified(result, networks):
    """The result with the front of those that were trained to the end."""
    front = GOAL.front([network.reported for network in networks if network.finished])
    front = [dataclasses.replace(record, state="complete") for record in front]
    return dataclasses.replace(result, front=front)


def test_a_verified_front_is_drawn_above_inherited_accuracies(verified, networks, tmp_path):
    from matplotlib.image import imread

    files = write_report(verified, SearchSpace.from_yaml("quickstart"), tmp_path, networks=networks)
    assert tmp_path / "verified.csv" in files
    pixels = (imread(tmp_path / "front.png")[:, :, :3] * 255).round().astype(int)
    half = len(pixels) // 2
    for part in (pixels[:half], pixels[half:]):
        for colour in (FRONT, VERIFIED):
            rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
            assert (part == rgb).all(axis=2).sum() > 30
    with (tmp_path / "verified.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["state"] for row in rows[:2]] == ["verified", "dropped at rung 1"]
    error = 100 * (0.95 * 0.05 / 400) ** 0.5
    assert float(rows[0]["accuracy_error"]) == pytest.approx(error)
    assert rows[0]["inherited_accuracy"] == "60.0" and rows[0]["latency_ms"] == "0.5"
    assert float(rows[1]["inherited_accuracy"]) == networks[1].record.metrics["accuracy"]
    # an earlier report's table does not stay behind
    write_report(verified, SearchSpace.from_yaml("quickstart"), tmp_path)
    assert not (tmp_path / "verified.csv").exists()


def test_the_page_never_mixes_verified_and_inherited_accuracies(verified, networks, tmp_path):
    write_report(verified, SearchSpace.from_yaml("quickstart"), tmp_path, networks=networks)
    trained = {network.record.number: network.reported for network in networks}
    for trial in page_data(tmp_path / "report.html")["trials"]:
        record = trained.get(trial["number"])
        accuracy = None if record is None else record.metrics["accuracy"]
        assert trial["metrics"].get("accuracy") == accuracy
    assert any(t["front"] == 0 for t in page_data(tmp_path / "report.html")["trials"])


@pytest.mark.parametrize(
    ("width", "left_out"), [(60, ["inherited", "params"]), (80, ["inherited"])]
)
def test_a_narrow_terminal_shows_what_was_asked_for_and_no_value_in_part(
    verified, width: int, left_out: list[str]
):
    costs = {"cross_entropy": 0.8741, "cross_entropy_deviation": 0.85, "params": 182_000.0,
             "macs": 12_900_000.0}  # fmt: skip
    front = [
        dataclasses.replace(m, architecture=("narrow3",) * 4, metrics={**m.metrics, **costs})
        for m in verified.front
    ]
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(front_table(dataclasses.replace(verified, front=front)))
    text = console.export_text()
    assert "…" not in text and not any(name in text for name in left_out)
    assert "more in report/front.csv" in text and "latency (ms)" in text
    member = front[0].metrics
    assert f"{member['accuracy']:.1f} ± " in text and "narrow3" in text


def test_the_table_shows_both_accuracies_of_a_verified_front(verified, networks):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(front_table(verified))
    text = console.export_text()
    assert "Verified front" in text and "inherited" in text and "in the search" not in text
    metrics = verified.front[0].metrics
    assert f"{metrics['accuracy']:.1f} ± 1.1" in text
    assert f"{metrics['inherited_accuracy']:.1f} ± 2." in text
    space = SearchSpace.from_yaml("quickstart")
    finished = [network.reported for network in networks if network.finished]
    said = agreement(finished, space)
    assert f"{len(finished)} networks" in said and "inherited accuracy -1.00" in said
    assert agreement(finished[:2], space) == ""
