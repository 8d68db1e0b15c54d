"""Whatever is written in a configuration is refused in words, or kept and usable; never a trace."""

from __future__ import annotations

import copy
import dataclasses
import math
import typing
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from anything import quick, scalars, values
from hypothesis import given, settings
from hypothesis import strategies as st
from spaces import space_values

from configs import Config, UserError, config_to_dict, load_config
from configs.latency import LatencySettings
from configs.loading import check_config
from configs.space import space_from_dict

MINIMAL = {"name": "photos", "space": space_values(candidates=("conv3", "inv3", "skip"))}


def paths(section: type, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every key of the schema; one stage and one candidate stand for all."""
    for name, kind in typing.get_type_hints(section).items():
        if name.startswith("__"):
            continue
        yield (*above, name)
        inside = [kind, *(a for a in typing.get_args(kind) if dataclasses.is_dataclass(a))]
        for part in filter(dataclasses.is_dataclass, inside):
            yield from paths(part, (*above, name, *((0,) if part is not kind else ())))
    if not above:
        yield from [
            ("space", "candidates", "conv3", "operator"),
            ("space", "candidates", "conv3", "kernel_size"),
            ("search", "objectives", "accuracy"),
            ("search", "constraints", "params"),
        ]


def with_value(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    found: Any = (changed := copy.deepcopy(MINIMAL))
    for key in path[:-1]:
        found = found[key] if isinstance(found, list) else found.setdefault(key, {})
    found[path[-1]] = value
    return changed


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, inside in value.items():
            yield key
            yield from leaves(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from leaves(inside)
    else:
        yield value


def assert_refused_or_kept(given_values: Any) -> str:
    """Check either outcome; return the message of a refusal."""
    try:
        config = check_config(given_values)
    except UserError as error:
        assert str(error)
        return str(error)
    kept = config_to_dict(config)
    assert all(math.isfinite(leaf) for leaf in leaves(kept) if isinstance(leaf, float))
    assert check_config(yaml.safe_load(yaml.safe_dump(kept))) == config
    assert space_from_dict(kept["space"]) == config.space  # without pydantic
    return ""


@settings(quick, max_examples=500)
@given(st.sampled_from([*paths(Config)]), values)
def test_every_key_is_refused_or_kept(path: tuple[Any, ...], value: Any) -> None:
    message = assert_refused_or_kept(with_value(path, value))
    named = [str(key) for key in path if isinstance(key, str)]
    assert not message or any(key in message for key in named[-2:])


@quick
@given(values)
def test_any_tree_is_refused_or_kept(tree: Any) -> None:
    assert_refused_or_kept(tree)
    if isinstance(tree, dict):
        assert_refused_or_kept({**MINIMAL, **tree})


@quick
@given(st.text(alphabet="-:[]{}&*!?|>'\"#%@, \n\tabe019.~=", max_size=30))
def test_any_text_is_refused(tmp_path_factory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError):
        load_config(file)


@pytest.mark.parametrize(
    "text",
    ["a: 2026-99-99", "a: !!int x", "a: " + "[" * 1200, "a: &a [*a]", "a: " + "9" * 5000, "1: 2",
     "name: x\nspace: {stages: [], candidates: {c: &c {operator: skip, more: *c}}}"],
)  # fmt: skip
def test_yaml_that_trips_its_reader_is_refused(tmp_path, text: str) -> None:
    (tmp_path / "any.yaml").write_text(text)
    with pytest.raises(UserError):
        load_config(tmp_path / "any.yaml")


@quick
@given(
    st.lists(
        st.sampled_from(["train", "epochs", "space", "stages", "0", "²", "", "candidates", "x y"]),
        max_size=4,
    ),
    st.one_of(st.text(max_size=5), st.sampled_from(["=", "2026-99-99", "{a: &a [*a]}", "[", "3"])),
)
def test_any_override_is_refused_or_kept(tmp_path_factory, keys: list[str], text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "minimal.yaml"
    file.write_text(yaml.safe_dump(MINIMAL))
    try:
        config = load_config(file, [f"{'.'.join(keys)}={text}"])
    except UserError as error:
        assert str(error)
    else:
        assert check_config(config_to_dict(config)) == config


@quick
@given(st.data())
def test_spaces_without_pydantic_are_refused_or_kept(data: st.DataObject) -> None:
    """The way of an ``architecture.yaml``: what passes there passes pydantic too, unchanged."""
    path = data.draw(st.sampled_from([p for p in paths(Config) if p[0] == "space" and len(p) > 1]))
    changed = with_value(path, data.draw(values))
    try:
        space = space_from_dict(changed["space"])
    except UserError as error:
        assert str(error).startswith(("space", "candidates"))
    else:
        assert check_config(changed).space == space


@quick
@given(st.sampled_from([f.name for f in dataclasses.fields(LatencySettings)]), scalars)
def test_latency_settings_from_python_are_refused_or_kept(key: str, value: Any) -> None:
    try:
        settings = LatencySettings(**{key: value})
    except UserError as error:
        assert str(error).startswith(f"{key}: ")
    else:
        assert type(getattr(settings, key)) in (type(getattr(LatencySettings(), key)), int)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("name=..", "name"), ("name=.hidden", "name"), ("name=-x", "name"),
        ("name='a b'", "name"), (f"name={'x' * 200}", "name"),
        ("device=cuda:²", "device"), ("plugins=['']", "plugins"),
        ("train.learning_rate=.inf", "train.learning_rate"),
        ("search.cpus_per_worker=.inf", "search.cpus_per_worker"),
        ("search.constraints={params: .nan}", "search.constraints.params"),
        ("latency.max_spread=.inf", "latency.max_spread"),
        ("latency.threads=1000000", "latency.threads"),
        ("latency.retries=1000000", "latency.retries"),
        ("space.stages.0.expansion=.inf", "space.stages.0.expansion"),
        ("space.stages.0.expansion=1e-9", "space.stages.0.expansion"),
        ("space.stages.0.depth=1000000000", "space.stages.0.depth"),
        ("space.stages.0.candidates=[conv3, conv3]", "space.stages.0.candidates"),
        ("space.candidates.conv3.kernel_size=.inf", "space.candidates.conv3.kernel_size"),
        ("space.candidates.conv3=3", "space.candidates.conv3"),
        ("space.candidates.conv3.operator=[skip]", "space.candidates.conv3.operator"),
        ("space.candidates.conv3.groups=2026-01-01", "space.candidates.conv3.groups"),
        ("space.candidates={a.b: {operator: skip}}", "'a.b'"),
        ("space.candidates={'a b': {operator: skip}}", "'a b'"),
        ("space.candidates={'': {operator: skip}}", "''"),
        ("space.candidates={_x: {operator: skip}}", "'_x'"),
        ("tracking.experiment=''", "tracking.experiment"),
        ("tracking.model_name=a/b", "tracking.model_name"),
    ],
)  # fmt: skip
def test_nonsense_is_named(tmp_path, override: str, key: str) -> None:
    file = tmp_path / "minimal.yaml"
    file.write_text(yaml.safe_dump(MINIMAL))
    with pytest.raises(UserError, match="is not possible; ") as caught:
        load_config(file, [override])
    assert key in str(caught.value)
