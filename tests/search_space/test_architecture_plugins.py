"""Whose code an `architecture.yaml` runs: that of its own folder, or what the user listed."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import pytest
import timm
import yaml
from spaces import space_values

from configs import UserError
from configs.registry import load_plugins
from experiments import cli
from search_space import (
    SearchSpace,
    build_network,
    load_architecture,
    named_architecture,
    save_architecture,
)

PLUGIN = """\
from pathlib import Path
from torch import nn
from search_space import register_operator

Path({mark!r}).touch()

@register_operator({name!r})
def {name}(in_channels, out_channels, stride):
    return nn.Conv2d(in_channels, out_channels, {kernel}, stride, {kernel} // 2)
"""
CHOICES = ("own", "own", "own", "own")


def write_plugin(file: Path, name: str, kernel: int = 3) -> Path:
    """A plugin, and beside it the mark that it leaves when it is run."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(PLUGIN.format(mark=str(mark_of(file)), name=name, kernel=kernel))
    return file


def mark_of(file: Path) -> Path:
    return file.with_suffix(".was-run")


def write_architecture(folder: Path, operator: str, plugins: list[str]) -> Path:
    values = space_values(candidates=("conv3",))
    values["candidates"]["own"] = {"operator": operator}
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "architecture.yaml"
    file.write_text(yaml.safe_dump({"architecture": list(CHOICES), "space": values,
                                    "plugins": plugins}))  # fmt: skip
    return file


def absolute(plugin: Path, folder: Path) -> str:
    return str(plugin)


def upwards(plugin: Path, folder: Path) -> str:
    return os.path.relpath(plugin, folder)


def linked(plugin: Path, folder: Path) -> str:
    (folder / plugin.name).symlink_to(plugin)
    return plugin.name


def through_a_linked_folder(plugin: Path, folder: Path) -> str:
    (folder / "sub").symlink_to(plugin.parent, target_is_directory=True)
    return f"sub/{plugin.name}"


def from_the_working_directory(plugin: Path, folder: Path) -> str:
    os.chdir(plugin.parent)
    return plugin.name


WAYS = (absolute, upwards, linked, through_a_linked_folder, from_the_working_directory)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_plugin_from_elsewhere_is_not_run_unless_listed(tmp_path, monkeypatch, way) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"elsewhere_{way.__name__}"
    plugin = write_plugin(tmp_path / "elsewhere" / "mine.py", name)
    (folder := tmp_path / "model").mkdir()
    file = write_architecture(folder, name, [way(plugin, folder)])
    ways_in = (
        load_architecture,
        SearchSpace.from_yaml,
        lambda path: named_architecture(str(path)),
        lambda path: timm.create_model("evolute", architecture=path),
    )
    for load in ways_in:
        with pytest.raises(
            UserError, match=r"plugins: .+ is not a file of .+ own folder .+--plugin"
        ) as refused:
            load(file)
        assert str(file) in str(refused.value)
    assert not mark_of(plugin).exists()
    space, architecture = load_architecture(file, [plugin])
    assert mark_of(plugin).exists()
    assert build_network(space, architecture)
    assert timm.create_model("evolute", architecture=file, plugins=[plugin])


def test_a_plugin_of_the_own_folder_is_run_also_through_a_link(tmp_path) -> None:
    inside = write_plugin(tmp_path / "model" / "code" / "mine.py", "inside_folder")
    file = write_architecture(tmp_path / "model", "inside_folder", ["code/mine.py"])
    (tmp_path / "link").symlink_to(tmp_path / "model", target_is_directory=True)
    load_architecture(tmp_path / "link" / file.name)
    assert mark_of(inside).exists()


def test_a_missing_plugin_is_taken_from_the_list_by_its_name(tmp_path) -> None:
    plugin = write_plugin(tmp_path / "elsewhere" / "mine.py", "listed_by_name")
    file = write_architecture(tmp_path / "model", "listed_by_name", ["mine.py"])
    with pytest.raises(UserError, match=r"'mine\.py' is not a file of"):
        load_architecture(file)
    space, _ = load_architecture(file, [plugin])
    assert space.plugins == (str(plugin),)


@pytest.mark.parametrize("command", ["measure", "retrain"])
def test_commands_refuse_it_and_take_plugin(tmp_path, monkeypatch, capsys, command: str) -> None:
    name = f"of_{command}"
    plugin = write_plugin(tmp_path / "elsewhere" / "mine.py", name)
    file = write_architecture(tmp_path / "model", name, ["../elsewhere/mine.py"])
    monkeypatch.chdir(tmp_path)
    config = {
        "name": "tiny", "device": "cpu", "space": space_values(candidates=("conv3",)),
        "data": {"limit": 100}, "latency": {"max_spread": 10, "repeats": 6},
        "retrain": {"epochs": 1, "batch_size": 32},
    }  # fmt: skip
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config))
    arguments = {
        "measure": ["measure", str(file)],
        "retrain": ["retrain", "tiny.yaml", "--architecture", str(file), "--out", "out"],
    }[command]
    monkeypatch.setattr(sys, "argv", ["evolute", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert f"--plugin {plugin}" in capsys.readouterr().err
    assert not mark_of(plugin).exists() and not (tmp_path / "out").exists()
    monkeypatch.setattr(sys, "argv", ["evolute", *arguments, "--plugin", str(plugin)])
    # a machine that is too busy to time anything ends `measure` after the plugin has run
    with contextlib.suppress(SystemExit) if command == "measure" else contextlib.nullcontext():
        cli.main()
    assert mark_of(plugin).exists()
    if command == "retrain":
        (folder,) = (tmp_path / "out" / "retrained").iterdir()
        assert (folder / "mine.py").read_bytes() == plugin.read_bytes()
        assert yaml.safe_load((folder / "config.yaml").read_text())["plugins"] == ["mine.py"]
        load_architecture(folder / "architecture.yaml")


def test_two_plugins_of_one_name_do_not_overwrite_each_other(tmp_path) -> None:
    values = space_values(candidates=("conv3",))
    plugins = []
    for index, name in enumerate(("first_of_two", "second_of_two")):
        plugins.append(write_plugin(tmp_path / name / "op.py", name, 2 * index + 1))
        values["candidates"][name] = {"operator": name}
    load_plugins(plugins)
    space = SearchSpace.from_dict({"space": values, "plugins": list(map(str, plugins))})
    choices = ("first_of_two", "second_of_two", "conv3", "conv3")
    file = save_architecture(tmp_path / "model" / "architecture.yaml", space, choices)
    again = save_architecture(tmp_path / "model" / "again.yaml", space, choices)
    names = yaml.safe_load(file.read_text())["plugins"]
    assert len(names) == 2 and names == yaml.safe_load(again.read_text())["plugins"]
    contents = [(file.parent / name).read_bytes() for name in names]
    assert contents == [plugin.read_bytes() for plugin in plugins]
    loaded, _ = load_architecture(file)
    saved_again = save_architecture(tmp_path / "model" / "architecture.yaml", loaded, choices)
    assert yaml.safe_load(saved_again.read_text())["plugins"] == names
    # another architecture in the same folder leaves the first what it is
    write_plugin(plugins[0], "first_of_two", 5)
    other = SearchSpace.from_dict({"space": values, "plugins": list(map(str, plugins))})
    save_architecture(tmp_path / "model" / "other.yaml", other, choices)
    assert [(file.parent / name).read_bytes() for name in names] == contents
