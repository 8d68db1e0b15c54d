"""The page of a search: its sections say what the numbers say, and nothing that is not known."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from experiments.reporting.account import Account
from experiments.reporting.choices import choice_effects, layer_importances
from experiments.reporting.course import plot_counting, plot_course
from experiments.reporting.plots import plot_curves
from experiments.reporting.report import write_report
from experiments.reporting.search_page import search_html
from experiments.reporting.verified import VerifiedNetwork
from search.goal import Goal
from search.trials import SearchResult, TrialRecord
from search_space import ChoiceSpace

SPACE = ChoiceSpace([("conv3", "inv3", "skip"), ("conv3", "inv3"), ("conv3",)])
GOAL = Goal({"accuracy": "maximize", "latency_ms": "minimize"})
BRINGS = {"conv3": 4.0, "inv3": 1.0, "skip": -5.0}  # in the first layer; nothing in the others


def searched(seed: int = 0, count: int = 60) -> SearchResult:
    """Trials whose accuracy depends on the first layer, and whose latency on both."""
    rng = np.random.default_rng(seed)
    trials = []
    for number in range(count):
        architecture = SPACE.sample(rng)
        latency = 1.0 + sum(name == "inv3" for name in architecture) + 0.01 * rng.normal()
        metrics = {
            "accuracy": 80 + BRINGS[architecture[0]] + 0.1 * rng.normal(),
            "accuracy_images": 1000.0,
            "latency_ms": latency,
            "latency_spread": 0.04,
            "macs": 1e6 * (1 + sum(name == "conv3" for name in architecture)),
        }
        trials.append(TrialRecord(number, architecture, metrics, "complete"))
    growth = list(np.linspace(0, 1, count))
    return SearchResult(trials, GOAL.front(trials), GOAL, "<two & layers>", None, growth)


@pytest.fixture(scope="module")
def result() -> SearchResult:
    return searched()


def sections(page: Path) -> dict[str, str]:
    """The text of each section by its title, as people read it."""
    found = re.findall(r"<section><h2>(.*?)</h2>(.*?)</section>", page.read_text(), re.DOTALL)
    return {unescape(title): unescape(re.sub(r"<[^>]*>", " ", content)) for title, content in found}


def test_what_a_choice_brings_is_found_again(result: SearchResult) -> None:
    effects = choice_effects(SPACE, result.trials, ["accuracy", "params"])
    assert set(effects) == {"accuracy"}  # of params nothing is known
    first, second, third = effects["accuracy"]
    for name, brings in BRINGS.items():
        value, error = first[name]
        assert value == pytest.approx(brings, abs=0.2) and 0 < error < 0.2
    assert all(abs(value) < 0.2 for value, _ in [*second.values(), *third.values()])
    assert choice_effects(SPACE, result.trials[:5], ["accuracy"]) == {}


def test_the_layer_on_which_all_depends_has_the_importance(result: SearchResult, capfd) -> None:
    shares = layer_importances(SPACE, result.trials, "accuracy")
    assert shares is not None
    assert shares[0] > 0.95 and shares[2] == 0 and sum(shares) == pytest.approx(1)
    latency = layer_importances(SPACE, result.trials, "latency_ms")
    assert latency is not None and min(latency[:2]) > 0.2
    assert layer_importances(SPACE, result.trials[:5], "accuracy") is None
    assert capfd.readouterr().err == ""  # Optuna says nothing of its own


def test_every_section_is_there_and_the_verdict_comes_first(result, tmp_path) -> None:
    curves = plot_curves([{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}], tmp_path / "c.png")
    account = Account(
        "No <hybrid> wins.", ("Read twice.",), Path("runs/x"), "a chip, eager", curves
    )
    networks = [
        VerifiedNetwork(
            record,
            {"accuracy": 90.0 - index, "accuracy_images": 500.0, "seconds": 1.0},
            plain=index == 0,
            rung=2 if index < 3 else 0,
            finished=index < 3,
        )
        for index, record in enumerate(result.trials[:4])
    ]
    files = write_report(result, SPACE, tmp_path, networks=networks, account=account)
    page = tmp_path / "report.html"
    assert {page, tmp_path / "course.png", tmp_path / "counting.png"} <= set(files)
    text = page.read_text()
    assert text.index("No &lt;hybrid&gt; wins.") < text.index("Read twice.") < text.index("<svg")
    assert text.count("data:image/png;base64,") == 3  # and no picture from elsewhere
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:)", text)
    found = sections(page)
    assert list(found) == [
        "What each choice brings and costs", "The search", "Verification",
        "The supernet's training", "How it was measured", "How to go on",
    ]  # fmt: skip
    choices = found["What each choice brings and costs"]
    assert "of 60 trials" in choices and re.search(r"accuracy \(%\).*latency \(ms\)", choices)
    assert "90.00 ± 1.3" in found["Verification"] and "dropped at rung 0" in found["Verification"]
    assert "Kendall's tau" in found["Verification"]
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    drawn = [(trial["state"], trial["message"]) for trial in data["trials"]]
    assert drawn[2] == ("complete", "verified")
    assert ("stopped", "dropped at rung 0") in drawn  # a ring, and says why
    assert "60 complete" in found["How it was measured"]
    assert "a chip, eager" in found["How it was measured"]
    command = "evolute retrain --search runs/x --pick INDEX --seeds 3 --baselines"
    assert command in found["How to go on"]


def test_what_is_not_known_has_no_section(tmp_path) -> None:
    few = searched(count=2)
    found = sections(search_html(few, SPACE, tmp_path / "report.html"))
    assert list(found) == ["How it was measured", "How to go on"]


def test_pictures_say_what_they_show(result: SearchResult, tmp_path) -> None:
    counted = plot_counting(result, tmp_path / "counting.png")
    assert counted is not None and counted[1].exists()
    assert re.search(r"order 60 networks .* tau of -0\.\d\d \(-", counted[0])  # the wrong way round
    course = plot_course(result, tmp_path / "course.png")
    assert course is not None and course[1].exists()
    one = SearchResult(result.trials[:1], [], GOAL, "one", None)
    assert plot_counting(one, tmp_path / "x.png") is None
    assert plot_course(one, tmp_path / "x.png") is None and not (tmp_path / "x.png").exists()
