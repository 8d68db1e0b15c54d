"""What the exported files of a folder are: ``exports.json`` beside them, one entry a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.atomic import write_atomically
from configs.kept import read_or_none

NAME = "exports.json"
OPERATORS = "evolute_operators.so"  # ours, beside a package (.pt2) that calls them


def read_exports(folder: Path) -> dict[str, dict[str, Any]]:
    """Return file -> what is known of it, for the files that are there.

    Always ``batch`` (images of a pass, 0 for any number) and ``dtype``; of a file in a smaller
    type also what it loses and gains (`experiments.smaller`).
    """
    again = "`evolute export` writes it again"
    known = read_or_none(folder / NAME, dict, again) or {}
    return {file: values for file, values in known.items() if (folder / file).exists()}


def note_exports(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Add files, or replace what is known of them; those that are gone are forgotten."""
    known = {**read_exports(folder), **{file: dict(values) for file, values in files.items()}}
    write_atomically(folder / NAME, json.dumps(known, indent=1) + "\n")
