"""Writes a commented configuration for a user's own images."""

from __future__ import annotations

import re
import textwrap
import typing
from pathlib import Path

import numpy as np

from configs import Config, UserError, find_config
from configs.atomic import write_atomically
from configs.documentation import field_documentation
from configs.schema import Data
from experiments.data.splits import open_images

SAMPLED = 64  # images whose size is looked at
SIZES = (32, 64, 96, 128, 160, 192, 224)  # input sizes that are suggested


def write_config(images: Path, out: Path, preset: str) -> None:
    """Copy a preset with the keys set that the images decide, and say what each key means.

    Raises:
        UserError: There are no images, or `out` exists.
    """
    if out.exists():
        raise UserError(f"{str(out)!r} exists; choose another name")
    train, open_test = open_images(Data(name="images", root=str(images)), channels=3)
    indices = np.linspace(0, len(train.labels) - 1, SAMPLED).astype(int)
    sides = [min(train.read(int(index)).size) for index in dict.fromkeys(indices.tolist())]
    side = int(np.median(sides))
    name = re.sub(r"[^\w.-]+", "-", out.stem).strip("-") or "mine"
    count = len(train.labels) + len(open_test().labels)
    size = suggested_size(side)
    values = {
        "name": (name, f"the work directory is runs/{name}"),
        "input_size": (size, f"median of the shorter sides: {side} pixels"),
        "in_channels": (3, "colour; 1 for grey images"),
        "num_classes": (len(train.class_names), _few(train.class_names)),
        "root": (str(images), f"{count} images"),
        "limit": (0, "all images; a smaller number for a first try"),
        "crop_padding": (size // 8, "an eighth of the input's size"),
    }
    text = find_config(preset).read_text(encoding="utf-8")
    body = text[text.index("\nname:") + 1 :]
    heading = [
        f"# Written by `evolute init {out} --images {images}` from the preset {preset}.",
        "#",
        f"#   evolute run {out}",
        "#",
        "# Every key can be overridden: --set search.trials=200. `skip` among the candidates lets",
        "# the search leave layers out.",
        "",
    ]
    write_atomically(out, "\n".join(heading) + "\n" + comment(set_values(body, values)))


def set_values(text: str, values: dict[str, tuple[object, str]]) -> str:
    """Replace the first occurrence of each key's value, and say why behind it."""
    for key, (value, why) in values.items():
        pattern = rf"^(\s*){key}:(?=[ \n])[^\n]*"
        text = re.sub(pattern, rf"\g<1>{key}: {value}  # {why}", text, count=1, flags=re.M)
    return text


def comment(text: str) -> str:
    """Put what the schema says above each key of a section that has no comment yet."""
    sections = typing.get_type_hints(Config)
    about = field_documentation(Config)
    lines = []
    for line in text.splitlines():
        key = line.strip().partition(":")[0]
        if re.match(r"\w+:", line):
            top = sections.get(key, str)
            described, about_keys = about, field_documentation(top) if top is not str else {}
        else:
            described = about_keys if re.match(r"  \w+:", line) else {}
        if key in described and "#" not in line:
            indent = line[: len(line) - len(line.lstrip())]
            lines += textwrap.wrap(described[key], 98, initial_indent=indent + "# ",
                                   subsequent_indent=indent + "# ")  # fmt: skip
        lines.append(line)
    return "\n".join(lines) + "\n"


def suggested_size(side: int) -> int:
    """Return the largest usual input size that is no larger than the images."""
    return max((size for size in SIZES if size <= side), default=SIZES[0])


def _few(names: list[str]) -> str:
    shown = ", ".join(map(str, names[:5]))
    return shown if len(names) <= 5 else f"{shown}, ..."
