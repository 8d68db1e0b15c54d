"""Configuration files: what is refused, and with which words."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from pathlib import Path

import pytest
import yaml
from spaces import space_values

from configs import UserError, config_to_dict, load_config, preset_names
from configs import schema as schema_module
from configs import space as space_module
from configs.loading import check_config
from search_space import SearchSpace

MINIMAL = """\
name: photos
space:
  candidates:
    conv3: {operator: convolution}
    skip: {operator: skip}
  stages:
    - {width: 16, depth: 2}
    - {width: 32, depth: 2, stride: 2}
train:
  epochs: 3
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "photos.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def refusal(file: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(file, overrides)
    return str(caught.value)


def test_minimal_file(tmp_path) -> None:
    config = load_config(write(tmp_path, MINIMAL))
    assert config.train.epochs == 3
    assert config.retrain.epochs == 10  # a default
    assert config.space.stages[1].stride == 2
    assert check_config(config_to_dict(config)) == config  # written and read again


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        # file and line, key, value where there is one, and what would be right
        ("  epochs: 3", "  epoch: 3", [":10:", "`train.epoch`", "'epochs'"]),
        ("train:", "tain:", [":9:", "`tain`", "'train'"]),
        ("{width: 16, depth: 2}", "{wdth: 16, depth: 2, width: 2}",
         [":7:", "`space.stages.0.wdth`", "'width'"]),
        ("depth: 2, stride: 2", "depth: 2, stride: 3", [":8:", "stride", "3", "choose 1 or 2"]),
        ("  epochs: 3", "  epochs: many", [":10:", "train.epochs", "'many'", "valid integer"]),
        ("  epochs: 3", "  epochs: 0", ["train.epochs", "0", "positive"]),
        ("  epochs: 3", "  epochs: -3", ["train.epochs", "-3", "positive"]),
        ("  epochs: 3", "  learning_rate: .nan", ["train.learning_rate", "nan", "finite"]),
        ("  epochs: 3", "  sampling: farely", [":10:", "train.sampling", "'farely'", "'fair'"]),
        ("  epochs: 3", "  flip: yes", ["`train.flip`", "known keys", "epochs"]),
        ("name: photos\n", "", ["`name`", "missing"]),
        ("name: photos", "name: a/b", ["name", "'a/b'", "letters"]),
        ("{width: 16, depth: 2}", "{width: 16, depth: 2, candidates: [conv3, conv3]}",
         [":7:", "candidates", "('conv3', 'conv3')", "once"]),
        ("width: 16, depth: 2}", "width: 16}", [":7:", "`space.stages.0.depth`", "missing"]),
        ("{operator: convolution}", "{kernel_size: 3}", ["candidates.conv3", "`operator`"]),
        ("train:\n  epochs: 3", "train: 3", [":9:", "train", "3"]),
        ("train:\n  epochs: 3", "seed: -1", ["seed", "-1"]),
        ("train:\n  epochs: 3", "seed: 4294967296", ["seed", "4294967296", "2**32"]),
        ("train:\n  epochs: 3", "data: {crop_padding: 1000}",
         ["data.crop_padding: 1000", "at most 16, half of space.input_size"]),
        ("train:\n  epochs: 3", "data: {crop_scale: 0.5, crop_padding: 4}",
         [":9:", "data.crop_padding: 4", "`crop_scale` crops already"]),
        ("train:\n  epochs: 3", "data: {crop_scale: 8}", ["data.crop_scale: 8", "share"]),
        ("train:\n  epochs: 3", "data: {split_seed: -1}", ["data.split_seed: -1"]),
        ("train:\n  epochs: 3", "data: {name: digits, root: photos}",
         [":9:", "data.root: 'photos'", "`digits` is embedded"]),
        ("train:\n  epochs: 3", "device: gpu", ["device", "'gpu'", "cuda"]),
        ("train:\n  epochs: 3", "data: {name: images}", ["data.root", "images", "folder"]),
        ("train:\n  epochs: 3", "data: {validation_fraction: 1.5}",
         ["data.validation_fraction", "1.5", "between 0 and 1"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, old: str, new: str, expected: list[str]) -> None:
    assert old in MINIMAL
    file = write(tmp_path, MINIMAL.replace(old, new))
    message = refusal(file)
    assert message.startswith(str(file))
    for part in expected:
        assert part in message


def test_every_mistake_is_named_at_once(tmp_path) -> None:
    file = write(tmp_path, MINIMAL.replace("epochs: 3", "epochs: x\n  batch_sise: 4"))
    lines = refusal(file).splitlines()
    assert len(lines) == 2
    assert "train.epochs" in lines[0] and "train.batch_sise" in lines[1]


@pytest.mark.parametrize("text", ["a: [1", "- a\n- b", "", "\tname: x"])
def test_what_is_no_mapping_is_refused(tmp_path, text: str) -> None:
    assert str(tmp_path / "photos.yaml") in refusal(write(tmp_path, text))


def test_binary_file_is_refused(tmp_path) -> None:
    file = tmp_path / "photos.yaml"
    file.write_bytes(b"\xff\xfe\x00PK\x03\x04")
    assert "not valid YAML" in refusal(file)


def test_python_objects_are_never_built(tmp_path) -> None:
    marker = tmp_path / "ran"
    text = f"name: !!python/object/apply:os.mkdir ['{marker}']\n"
    assert "not valid YAML" in refusal(write(tmp_path, text))
    assert not marker.exists()


def test_numbers_and_words_that_yaml_reads_in_its_own_way(tmp_path) -> None:
    # YAML 1.1 takes 1e-3 for a string, and no and off for false
    config = load_config(write(tmp_path, MINIMAL + "  weight_decay: 1e-3\ndata: {flip: off}\n"))
    assert config.train.weight_decay == 0.001
    assert config.data.flip is False
    message = refusal(write(tmp_path, MINIMAL.replace("name: photos", "name: no")))
    assert "name: False is not possible; input should be a valid string" in message
    message = refusal(write(tmp_path, MINIMAL.replace("skip: {", "off: {")))
    assert "space.candidates" in message


def test_a_switch_is_no_number(tmp_path) -> None:
    message = refusal(write(tmp_path, MINIMAL.replace("epochs: 3", "epochs: on")))
    assert ":10: train.epochs: a number is needed, not true or false" in message


def test_set_replaces_nested_and_list_keys(tmp_path) -> None:
    config = load_config(
        write(tmp_path, MINIMAL),
        [
            "train.epochs=7",
            "search.trials=200",  # a section that isn't in the file
            "space.stages.1.width=48",
            "space.candidates.inv7={operator: involution}",
            "space.candidates.conv3.kernel_size=5",
            "search.objectives={accuracy: maximize}",
            "train.learning_rate=1e-3",
            "data.name=images",
            "data.root=a=b",
        ],
    )
    assert config.train.epochs == 7
    assert config.search.trials == 200
    assert [stage.width for stage in config.space.stages] == [16, 48]
    assert config.space.candidates["inv7"] == {"operator": "involution"}
    assert config.space.candidates["conv3"] == {"operator": "convolution", "kernel_size": 5}
    assert config.search.objectives == {"accuracy": "maximize"}
    assert config.train.learning_rate == 0.001
    assert config.data.root == "a=b"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("search.trails=2", ["`search.trails`", "'trials'"]),
        ("search.trials", ["'search.trials'", "key=value"]),
        ("=3", ["'=3'", "key=value"]),
        ("search.trials=[1", ["search.trials=[1", "YAML"]),
        ("search.trials=few", ["search.trials", "'few'"]),
        ("train.epochs.often=2", ["`epochs` holds no further keys"]),
        ("space.stages.2.width=8", ["'space.stages.2.width=8'", "2", "list of 2"]),
        ("space.stages.7.1=8", ["'space.stages.7.1=8'", "'7'", "list of 2"]),
        ("space.stages.first=8", ["'first'", "list of 2"]),
        ("name=", ["name", "None"]),
    ],
)
def test_set_mistakes(tmp_path, override: str, expected: list[str]) -> None:
    message = refusal(write(tmp_path, MINIMAL), override)
    for part in expected:
        assert part in message


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"'quikstart' is neither .* mean 'quickstart'"):
        load_config("quikstart")
    with pytest.raises(UserError, match=r"nothing\.yaml"):
        load_config("nothing.yaml")


@pytest.mark.parametrize("name", preset_names())
def test_presets_load_and_their_spaces_build(name: str) -> None:
    config = load_config(name)
    assert config.name == name
    space = SearchSpace(config.space, config.plugins)
    assert SearchSpace.from_yaml(name) == space
    assert space.size > 100
    comment = Path(schema_module.__file__).with_name(f"{name}.yaml").read_text(encoding="utf-8")
    assert comment.startswith("#") and any(
        f"{command} {name}" in comment for command in ("evolute run", "evolute train")
    )


def test_cifar10_cpu_asks_where_involution_is_not_too_expensive() -> None:
    """64 channels at 16 pixels and 128 at 8: below, it costs three times as much as conv3."""
    space = SearchSpace.from_yaml("cifar10_cpu")
    side = space.input_size // space.config.stem.stride
    for layer in space.layers:
        side //= layer.stride
        stage = space.config.stages[layer.stage]
        assert layer.out_channels / stage.expansion >= 64
        assert layer.out_channels / stage.expansion * side >= 1024


def test_plugins_are_found_beside_the_file(tmp_path, monkeypatch) -> None:
    (tmp_path / "mine.py").write_text("")
    (tmp_path / "elsewhere").mkdir()
    file = write(tmp_path, MINIMAL + "plugins: [mine.py]\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_config(file).plugins == (str(tmp_path / "mine.py"),)


def sections() -> list[type]:
    return [
        section
        for module in (schema_module, space_module)
        for _, section in inspect.getmembers(module, dataclasses.is_dataclass)
        if section.__module__ == module.__name__
    ]


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_every_key_is_documented(section: type) -> None:
    (definition,) = ast.parse(inspect.getsource(section)).body
    assert isinstance(definition, ast.ClassDef) and ast.get_docstring(definition)
    for statement, following in zip(definition.body, [*definition.body[1:], None]):
        if isinstance(statement, ast.AnnAssign):
            documented = isinstance(following, ast.Expr) and isinstance(
                following.value, ast.Constant
            )
            assert documented, f"{section.__name__}.{ast.unparse(statement.target)}"


def test_space_of_an_architecture_file_is_checked_without_pydantic() -> None:
    for values, expected in [
        ({**space_values(), "input_sise": 8}, "input_sise"),
        ({key: value for key, value in space_values().items() if key != "stages"}, "'stages'"),
        ({**space_values(), "stages": [{"depth": 2}]}, "width"),
        ({**space_values(), "input_size": 0}, "input_size: 0"),
    ]:
        with pytest.raises(UserError, match=expected):
            space_module.space_from_dict(values)


def test_values_survive_yaml() -> None:
    config = load_config("quickstart")
    assert check_config(yaml.safe_load(yaml.safe_dump(config_to_dict(config)))) == config
