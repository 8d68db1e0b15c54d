"""Names and folders that mean something else to a URL, a terminal or a registry."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import yaml
from spaces import small_config

from configs import UserError, config_to_dict
from configs.loading import check_config
from configs.sqlite import sqlite_url
from experiments import cli
from experiments.search import search_architectures
from experiments.tracking.store import Store, local_uri
from experiments.train import train_supernet
from experiments.workspace import open_tracker, open_workspace
from search.storage import storage_url
from search.study import stored_studies

REFUSED = ["q?mode=memory#x", "a?b", "a#b", "a%20b", "a%", "two\nlines"]
TAKEN = ["a[/b]", "[b]", "a b", "a&b", "a;b", "a+b", "a'b", "é", "a@b", "-x", "a:b"]


def tiny() -> dict:
    return config_to_dict(small_config(
        data={"limit": 150}, train={"epochs": 1, "batch_size": 64},
        evaluate={"calibration_images": 64},
        search={"trials": 2, "workers": 0, "profile_samples": 1, "verify": False,
                "objectives": {"params": "minimize"}},
    ))  # fmt: skip


@pytest.mark.parametrize("command", ["run", "train", "search", "rank"])
@pytest.mark.parametrize("out", REFUSED)
def test_a_folder_that_no_database_url_can_name_is_refused_before_anything_is_written(
    tmp_path, monkeypatch, capsys, command: str, out: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(yaml.safe_dump(tiny()))
    monkeypatch.setattr(sys, "argv", ["evolute", command, "tiny.yaml", "--out", out])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "--out" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["tiny.yaml"]
    with pytest.raises(UserError, match="choose another directory"):
        storage_url(tmp_path / out / "study.db")


@pytest.mark.parametrize("out", TAKEN)
def test_databases_are_in_the_folder_that_was_asked_for(tmp_path, out: str) -> None:
    from search.goal import Goal
    from search.study import SearchStudy
    from search_space import SearchSpace

    folder = tmp_path / out
    folder.mkdir(parents=True)
    url = sqlite_url(folder / "study.db")
    SearchStudy(url, "s", SearchSpace(small_config().space), Goal({"params": "minimize"}))
    assert [study.name for study in stored_studies(url)] == ["s"]
    assert os.listdir(tmp_path) == [out.split("/")[0]] and os.listdir(folder) == ["study.db"]


def test_a_whole_search_in_a_folder_with_brackets(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    config, out = check_config(tiny()), Path("a[/b] [bold]")
    workspace = open_workspace(config, out)
    with open_tracker(config, workspace) as tracker:
        train_supernet(config, workspace, tracker)
        search_architectures(config, workspace, tracker)
    assert os.listdir(tmp_path) == [
        "a[",
    ] and os.listdir("a[") == ["b] [bold]"]
    store = Store(local_uri(out), "evolute", tracker.run_id)
    run = store.client.get_run(store.runs[tracker.run_id])
    found = {item.path for item in store.client.list_artifacts(run.info.run_id)}
    assert {"config.yaml", "report"} <= found
    monkeypatch.setattr(sys, "argv", ["evolute", "train", "tiny.yaml", "--out", str(out)])
    Path("tiny.yaml").write_text(yaml.safe_dump(tiny()))
    cli.main()  # trained already
    assert str(out / "supernet") in capsys.readouterr().out


@pytest.mark.parametrize("name", ["..", ".", "a/b", "/tmp/x", "", "-x", "a\0b", "~"])
def test_names_that_are_paths_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="name"):
        small_config(name=name)


@pytest.mark.parametrize("model", ["a/b", "a:b", "a?b", "a\nb", "a%b", "é/"])
def test_a_model_name_that_the_registry_refuses_is_refused_before_work(model: str) -> None:
    with pytest.raises(UserError, match=r"tracking\.model_name"):
        small_config(tracking={"model_name": model})
