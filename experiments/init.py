"""Writes a commented configuration for a user's own images."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from configs import UserError, find_config
from configs.schema import Data
from experiments.journal import write_atomically
from experiments.sources import open_sources

SAMPLED = 64  # images whose size is looked at


def write_config(images: Path, out: Path, preset: str) -> None:
    """Copies a preset, comments and all, with the keys set that the images decide.

    Raises:
        UserError: There are no images, or `out` exists.
    """
    if out.exists():
        raise UserError(f"--out: {str(out)!r} exists; choose another name")
    source = open_sources(Data(name="images", root=str(images)), 32, 3, seed=0).train
    indices = np.linspace(0, len(source.labels) - 1, SAMPLED).astype(int)
    sides = [min(source.read(int(index)).size) for index in dict.fromkeys(indices.tolist())]
    size = suggested_size(int(np.median(sides)))
    text = find_config(preset).read_text(encoding="utf-8")
    body = text[text.index("\nname:") + 1 :]
    name = re.sub(r"[^\w.-]+", "-", out.stem).strip("-") or "mine"
    changes = {
        "name": (name, "names the work directory runs/" + name),
        "input_size": (size, f"median of the shorter sides is {int(np.median(sides))} pixels"),
        "in_channels": (3, "colour; 1 for grey images"),
        "num_classes": (len(source.class_names), _few(source.class_names)),
        "root": (str(images), f"{len(source.labels)} images"),
        "limit": (0, "all images; a smaller number for a first try"),
    }
    for key, (value, why) in changes.items():
        pattern = rf"^(\s*){key}:(?=[ \n])[^\n]*"
        body, _ = re.subn(pattern, rf"\g<1>{key}: {value}  # {why}", body, count=1, flags=re.M)
    comments = [
        f"# Written by `evolute init {images}` from the preset {preset}.",
        "#",
        f"#   evolute run {out}",
        "#",
        "# Every key can be overridden: --set search.trials=200. All keys and what they mean:",
        "# configs/schema.py and configs/space.py.",
        "",
        "",
    ]
    write_atomically(out, "\n".join(comments) + body)


def suggested_size(side: int) -> int:
    """A usual input size near the images' own: 32, 64, 96, 128, 160, 192 or 224 pixels."""
    sizes = (32, 64, 96, 128, 160, 192, 224)
    return max((size for size in sizes if size <= side), default=sizes[0])


def _few(names: list[str]) -> str:
    shown = ", ".join(map(str, names[:5]))
    return shown if len(names) <= 5 else f"{shown}, ..."
