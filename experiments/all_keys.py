"""Adds every key that a configuration does not set to its text, as a comment with the default.

Without its ``# `` such a line is valid, and means what the file means without it.
"""

from __future__ import annotations

import dataclasses
import re
import textwrap
import typing
from typing import Any

import yaml

from configs import Config
from configs.documentation import field_documentation

LINE = 98  # characters


def with_all_keys(text: str) -> str:
    """Return the text with all keys; those of stages and candidates are told in the docs.

    Sections become blocks. One that is not there begins with its first key, at the default.
    """
    lines = text.rstrip().splitlines()
    _complete(lines, Config, 0, "")
    return "\n".join(lines) + "\n"


def _complete(lines: list[str], section: type, begin: int, indent: str) -> None:
    """Add what is missing of a section whose keys have an indent, from line ``begin`` on."""
    kinds = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        if not dataclasses.is_dataclass(kinds[field.name]):
            continue
        at = _find(lines, field.name, begin, indent)
        if at is None:
            at = _end(lines, begin, indent)
            first = dataclasses.fields(kinds[field.name])[0]
            new = [
                f"{indent}{field.name}:",
                f"{indent}  {first.name}: {as_yaml(default_of(first))}",
            ]
            lines[at:at] = new if indent else ["", *new]
            at += 0 if indent else 1
        _as_block(lines, at)
        _complete(lines, kinds[field.name], at + 1, indent + "  ")
    about = field_documentation(section)
    added = []
    for field in dataclasses.fields(section):
        if _find(lines, field.name, begin, indent) is None:
            mark = f"{indent}# "
            added += textwrap.wrap(
                about[field.name], LINE, initial_indent=mark, subsequent_indent=mark
            )
            added.append(f"{mark}{field.name}: {as_yaml(default_of(field))}")
    end = _end(lines, begin, indent)
    lines[end:end] = added if indent else ["", *added]


def _find(lines: list[str], key: str, begin: int, indent: str) -> int | None:
    """Return the line of a key of the section that begins there."""
    found = (at for at in range(begin, len(lines)) if lines[at].startswith(f"{indent}{key}:"))
    at = next(found, None)
    return at if at is None or at < _end(lines, begin, indent) else None


def _end(lines: list[str], begin: int, indent: str) -> int:
    """Return the line behind the last one of a section."""
    end = begin
    for at in range(begin, len(lines)):
        if lines[at].strip() and not lines[at].startswith(indent):
            break
        if lines[at].strip():
            end = at + 1
    return end


def _as_block(lines: list[str], at: int) -> None:
    """Turn ``key: {a: 1, b: 2}  # why`` into a line for each of them."""
    match = re.fullmatch(r"( *)(\w+): (\{.*\})( *#.*)?", lines[at])
    if match is not None:
        indent, key, values, why = match.groups()
        inner = [f"{k}: {as_yaml(v)}" for k, v in yaml.safe_load(values).items()]
        lines[at : at + 1] = [
            f"{indent}{key}:{f'  {why.strip()}' if why else ''}",
            *(f"{indent}  {line}" for line in inner),
        ]


def default_of(field: dataclasses.Field[Any]) -> Any:
    """Return the default of a field of the schema, which has one."""
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def as_yaml(value: Any) -> str:
    """Return a value as it is written behind ``key:``."""
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump([plain], default_flow_style=True, width=10_000).strip()[1:-1]
