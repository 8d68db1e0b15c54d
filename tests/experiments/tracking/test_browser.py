"""What people see of a finished run in MLflow's pages, in a real browser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import pytest
from finished import finished_run

from experiments.tracking.store import local_uri, open_client

CHROMIUM = shutil.which("chromium")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    pytest.mark.timeout(900),
]


@dataclass
class Pages:
    """A served store: what `evolute ui` printed, the ids of runs by name, and their parent's."""

    printed: list[str]
    home: str
    runs: dict[str, str]
    experiment: str
    profile: Path

    def text(self, address: str, *expected: str) -> str:
        """What can be read on a page once all that is expected is there; tried three times."""
        assert CHROMIUM is not None
        size = ("--window-size=1600,1000", "--virtual-time-budget=30000", "--timeout=60000")
        text = ""
        for _ in range(3):
            profile = f"--user-data-dir={self.profile / str(time.monotonic_ns())}"
            page = subprocess.run([CHROMIUM, *QUIET, profile, *size, "--dump-dom", address],
                                  capture_output=True, text=True, timeout=200)  # fmt: skip
            body = re.sub(r"<(script|style)\b.*?</\1>", " ", page.stdout, flags=re.S)
            text = " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())
            if all(words in text for words in expected):
                break
        missing = [words for words in expected if words not in text]
        assert not missing, f"{address}: {missing} not in: {text[:3000]}"
        return text


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Iterator[Pages]:
    folder = tmp_path_factory.mktemp("browser")
    directory = finished_run(folder)
    client = open_client(local_uri(directory))
    experiment = client.get_experiment_by_name("evolute").experiment_id
    runs = {run.info.run_name: run.info.run_id for run in client.search_runs([experiment])}
    command = [sys.executable, "-m", "evolute", "ui", "runs/photos", "--port", "5400"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    server = subprocess.Popen(command, cwd=folder, env=environment,
                              stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert server.stdout is not None
    printed = []
    try:
        for line in server.stdout:
            printed.append(line)
            if "Ctrl-C ends it" in line:
                break
        (address,) = re.findall(r"MLflow UI: (\S+)", "".join(printed))
        home = address.partition("/#")[0]
        yield Pages(printed, home, runs, experiment, tmp_path_factory.mktemp("profile"))
    finally:
        server.terminate()
        server.wait()


def test_the_table_of_runs(pages: Pages) -> None:
    """The address that `evolute ui` prints: runs as rows, with the numbers that count."""
    (address,) = re.findall(r"MLflow UI: (\S+)", "".join(pages.printed))
    assert "workflowType=machine_learning" in address and "viewStateShareKey=" in address
    columns = ("accuracy", "cross_entropy", "latency_ms", "params", "macs", "state")
    pages.text(address, *columns, "photos", "trial-", "You're viewing a shared view")


def test_the_description_of_the_search(pages: Pages) -> None:
    address = f"{pages.home}/#/experiments/{pages.experiment}/runs/{pages.runs['photos']}"
    text = pages.text(address, "Description", "evolute retrain --search")
    assert re.search("A hybrid wins|No hybrid wins|Hybrids neither", text)


def test_members_of_the_front_are_compared(pages: Pages) -> None:
    """The second address that `evolute ui` prints."""
    (address,) = re.findall(r"Its front, compared: (\S+)", "".join(pages.printed))
    text = pages.text(address, "Parallel Coordinates", "layer_00", "layer_03", "latency_ms")
    members = [name for name in pages.runs if f" {name} " in text]
    assert len(members) > 1
