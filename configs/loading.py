"""Reads a configuration file, or a preset by name, and refuses what is wrong in it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from configs.errors import UserError
from configs.schema import Config
from configs.secrets import remember
from configs.suggestions import did_you_mean

PRESETS = Path(__file__).parent


def preset_names() -> list[str]:
    """Return the names of the presets that come with Evolute, sorted."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def find_config(name_or_path: str | os.PathLike[str]) -> Path:
    """Return the file behind a preset's name or a path.

    Raises:
        UserError: Neither a preset nor a file; the message names the nearest preset.
    """
    text = os.fspath(name_or_path)
    if text in preset_names():
        return PRESETS / f"{text}.yaml"
    path = Path(text)
    if path.is_file():
        return path
    hint = did_you_mean(text, preset_names())
    raise UserError(f"{text!r} is neither a file nor a preset; {hint}")


def load_config(
    name_or_path: str | os.PathLike[str], overrides: typing.Sequence[str] = ()
) -> Config:
    """Read a configuration and check its structure and values.

    Names of metrics, samplers and the like are looked up by `experiments.settings.load_config`.

    Args:
        name_or_path: A preset's name or a YAML file.
        overrides: ``key.path=value`` strings; values are read as YAML.

    Raises:
        UserError: Names file, line, key, value and what would be right.
    """
    path = find_config(name_or_path)
    values = read_yaml(path)
    for override in overrides:
        _apply_override(values, override)
    for section, key in (("tracking", "uri"), ("search", "storage")):
        with contextlib.suppress(TypeError, KeyError):  # no such key, or another thing there
            remember(str(values[section][key]))
    config = check_config(values, path)
    plugins = tuple(
        os.fspath(candidate if (candidate := path.parent / plugin).exists() else Path(plugin))
        for plugin in config.plugins
    )
    return dataclasses.replace(config, plugins=plugins)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Raises:
        UserError: The file is missing, is not YAML, or is not a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # 2026-99-99, [[[[...
        raise UserError(f"{path} is not valid YAML: {_problem(error)}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected `key: value` lines, found {type(values).__name__}")
    return values


def _problem(error: Exception) -> str:
    """What is wrong, and where; without the text itself, which may be a password's line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return str(error).splitlines()[0]


def check_config(values: dict[str, Any], path: Path | None = None) -> Config:
    """Turn nested mappings into a `Config`; see `load_config` for the errors."""
    from pydantic import ValidationError

    try:
        config = _adapter().validate_python(values)
    except ValidationError as error:
        lines = [_explain(problem, path) for problem in error.errors()]
        raise UserError("\n".join(dict.fromkeys(lines))) from None
    for keys in _switches_for_numbers(values, config_to_dict(config)):
        where = place_of(path, keys) if path else ""
        raise UserError(f"{where}{'.'.join(map(str, keys))}: a number is needed, not true or false")
    return config


@functools.cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(Config)


def config_to_dict(config: Any) -> Any:
    """Return nested plain values, ready for YAML."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: config_to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, dict):
        return {key: config_to_dict(value) for key, value in config.items()}
    if isinstance(config, (tuple, list)):
        return [config_to_dict(value) for value in config]
    return config


def _switches_for_numbers(given: Any, checked: Any, keys: tuple[Any, ...] = ()) -> Iterator[list]:
    """Paths of keys where `yes` or `on` became the number 1: Python counts booleans as numbers."""
    if isinstance(given, bool) and not isinstance(checked, bool):
        yield list(keys)
    elif isinstance(given, dict) and isinstance(checked, dict):
        for key, value in given.items():
            yield from _switches_for_numbers(value, checked.get(key), (*keys, key))
    elif isinstance(given, list) and isinstance(checked, list):
        for index, (value, result) in enumerate(zip(given, checked)):
            yield from _switches_for_numbers(value, result, (*keys, index))


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UserError(f"--set {override!r}: write key=value, such as search.trials=200")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"--set {override!r}: not a YAML value: {_problem(error)}") from None
    *parents, last = key.split(".")
    section: Any = values
    for parent in parents:
        if isinstance(section, list):
            section = section[_index(parent, section, override)]
        elif isinstance(section, dict):
            section = section.setdefault(parent, {})
        if not isinstance(section, (dict, list)):
            raise UserError(f"--set {override!r}: `{parent}` holds no further keys")
    if isinstance(section, list):
        section[_index(last, section, override)] = value
    else:
        section[last] = value


def _index(text: str, values: list[Any], override: str) -> int:
    if not text.isdecimal() or int(text) >= len(values):
        raise UserError(f"--set {override!r}: {text!r} is no index of a list of {len(values)}")
    return int(text)


def _explain(problem: Any, path: Path | None) -> str:
    """One pydantic error as: where, key, value, what would be right."""
    keys = [key for key in problem["loc"] if key != "[key]"]
    where = place_of(path, keys) if path else ""
    key = ".".join(map(str, keys))
    kind, value = problem["type"], problem["input"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        known = _known_keys(keys[:-1])
        hint = did_you_mean(keys[-1], known, f"known keys: {', '.join(known)}.")
        return f"{where}unknown key `{key}`; {hint}"
    if kind == "missing" or kind == "missing_argument":
        return f"{where}the key `{key}` is missing"
    message = problem["msg"].removeprefix("Value error, ")
    if kind == "value_error":  # from a __post_init__, which names key and value itself
        return f"{where}{key + '.' if key else ''}{message}"
    return f"{where}{key}: {value!r} is not possible; {message[0].lower()}{message[1:]}"


def _known_keys(parents: list[Any]) -> list[str]:
    """Field names of the section at a path of keys."""
    section: Any = Config
    named = False  # whether the next key is a name that the user chose
    for parent in parents:
        if isinstance(parent, int) or named:
            named = False
            continue
        section = typing.get_type_hints(section).get(parent)
        named = typing.get_origin(section) is dict
        arguments = [a for a in typing.get_args(section) if dataclasses.is_dataclass(a)]
        section = arguments[0] if arguments else section
        if not dataclasses.is_dataclass(section):
            return []
    return [field.name for field in dataclasses.fields(section)]


def place_of(path: Path, keys: typing.Sequence[Any]) -> str:
    """Return ``file:line: `` of the deepest key that is in the file, or ``file: `` of none."""
    line = _line_of(path, keys)
    return f"{path}:{line}: " if line else f"{path}: "


def _line_of(path: Path, keys: typing.Sequence[Any]) -> int | None:
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, yaml.YAMLError):
        return None
    line = None
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            entry = next((pair for pair in node.value if pair[0].value == str(key)), None)
            if entry is None:
                break
            line, node = entry[0].start_mark.line + 1, entry[1]
        elif (
            isinstance(node, yaml.SequenceNode)
            and str(key).isdecimal()
            and int(key) < len(node.value)
        ):
            node = node.value[int(key)]
            line = node.start_mark.line + 1
        else:
            break
    return line
