"""The split of a work directory: which file is on which side, so that it stays there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.atomic import write_atomically

SIDES = ("train", "validation, first half", "validation, second half", "unused", "test")
UNUSED, TEST = 3, 4  # left out by `data.limit`; held out, or in a folder of their own

Kept = dict[str, list[str]]  # side -> names of files


def read_split(file: Path, of: Mapping[str, Any]) -> Kept | None:
    """Return what `write_split` wrote for the same settings.

    None where it did not, or where the file is damaged: the names decide again.
    """
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        kept = {side: list(map(str, stored[side])) for side in SIDES if side in stored}
        return kept if stored["of"] == of and set(SIDES[:TEST]) <= set(kept) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_split(file: Path, of: Mapping[str, Any], sides: Mapping[str, Sequence[str]]) -> None:
    """Write the names of the files on each side, and the settings they are `of`, atomically."""
    write_atomically(file, json.dumps({"of": of, **sides}, indent=1))


def changes(sides: Mapping[str, Sequence[str]], names: Sequence[str], where: str) -> list[str]:
    """Return a sentence each on files that were added and that are missing, for people."""
    known = {name for members in sides.values() for name in members}
    present = set(names)
    added = [name for name in names if name not in known]
    missing = {
        side: [name for name in members if name not in present] for side, members in sides.items()
    }
    said = []
    if added:
        said.append(
            f"{_count(len(added), 'image was', 'images were')} added since this work directory "
            f"was split, such as {added[0]}; not used here (another --out uses all; {where})"
        )
    if lost := [name for members in missing.values() for name in members]:
        shares = ", ".join(f"{len(some)} of {side}" for side, some in missing.items() if some)
        missed = _count(len(lost), "image is", "images are")
        said.append(f"{missed} missing since then ({shares}), such as {lost[0]}")
    return said


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"
