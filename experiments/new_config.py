"""Writes a commented configuration for a user's own images."""

from __future__ import annotations

import math
import re
import tempfile
import textwrap
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from configs import Config, UserError, find_config
from configs.atomic import write_atomically
from configs.documentation import field_documentation
from configs.schema import Data
from experiments.all_keys import with_all_keys
from experiments.data.splits import open_images
from experiments.plan import Plan, measure_plan
from experiments.settings import load_config

FEWEST_EPOCHS, FEWEST_TRIALS, FEWEST_BATCHES = 2, 40, 4
LARGE = 96  # pixels from which the stem takes every fourth
SAMPLED = 64  # images whose size is looked at
SIZES = (32, 64, 96, 128, 160, 192, 224)  # input sizes that are suggested


def write_config(images: Path, out: Path, preset: str, minutes: float | None = None) -> Plan | None:
    """Copy a preset with the keys set that the images decide, and say what each key means.

    Keys that the preset does not set are there as comments, with their defaults.

    Args:
        minutes: Make trainings and search as short as that, by steps that are timed here.

    Returns:
        How long a run takes, where `minutes` asked for it.

    Raises:
        UserError: There are no images, or `out` exists.
    """
    if out.exists():
        raise UserError(f"{str(out)!r} exists; choose another name")
    divided = open_images(Data(name="images", root=str(images)), channels=3)
    train = divided.images
    indices = np.linspace(0, len(train.labels) - 1, SAMPLED).astype(int)
    sampled = [train.read(int(index)) for index in dict.fromkeys(indices.tolist())]
    side, grey = int(np.median([min(image.size) for image in sampled])), all(map(_is_grey, sampled))
    name = re.sub(r"[^\w.-]+", "-", out.stem).strip("-") or "mine"
    count = len(train.labels) + len(divided.open_test()[0].labels)
    size = suggested_size(side)
    values = {
        "name": (name, f"the work directory is runs/{name}"),
        "input_size": (size, f"median of the shorter sides: {side} pixels"),
        "in_channels": (1, "grey") if grey else (3, "colour"),
        "num_classes": (len(train.class_names), _few(train.class_names)),
        "root": (str(images), f"{count} images"),
        "limit": (0, "all images; a smaller number for a first try"),
        "crop_padding": (size // 8, "an eighth of the input's size"),
    }
    text = find_config(preset).read_text(encoding="utf-8")
    body = set_values(text[text.index("\nname:") + 1 :], values)
    if size >= LARGE:  # or the first layers would work on maps several times those of the preset
        body = re.sub(r"(stem: \{[^}]*stride: )\d", r"\g<1>4", body)
    plan = None
    if minutes is not None:
        body, plan = _within(body, 60 * minutes, count, len(train.labels) / count)
    heading = [
        f"# Written by `evolute init {out} --images {images}` from the preset {preset}.",
        "#",
        f"#   evolute run {out}",
        "#",
        "# All keys are here. A line such as `# seed: 0` is one at its default; to change it, take",
        "# away the `# `. Every key can be overridden: --set search.trials=200. `skip` among the",
        "# candidates lets the search leave layers out.",
        "",
    ]
    write_atomically(out, "\n".join(heading) + "\n" + comment(with_all_keys(body)))
    return plan


def _within(body: str, seconds: float, images: int, untested: float) -> tuple[str, Plan]:
    """Return a configuration whose run takes so many seconds, and its plan.

    Epochs and trials become fewer first, then images: few epochs of many images train better than
    the contrary. Some batches of images are left all the same, so that it can run.

    Args:
        untested: Share of the images that is not for the test.
    """
    config = _read(body)
    plan = measure_plan(config)
    share = min(seconds / plan.total, 1.0)
    if share < 1:
        epochs = config.train.epochs * share
        batch = max(config.train.batch_size, config.retrain.batch_size)
        trained = untested * (1 - config.data.validation_fraction)
        fewest = math.ceil(FEWEST_BATCHES * batch / trained)
        limit = max(round(images * min(epochs / FEWEST_EPOCHS, 1)), fewest)
        changes = {
            "train": {"epochs": max(round(epochs), FEWEST_EPOCHS)},
            "search": {"trials": max(round(config.search.trials * share), FEWEST_TRIALS)},
            "retrain": {"epochs": max(round(config.retrain.epochs * share), FEWEST_EPOCHS)},
            "data": {"limit": limit if limit < images else 0},
        }
        for section, keys in changes.items():
            body = set_in_section(body, section, keys, f"for {seconds / 60:g} minutes")
        plan = measure_plan(_read(body))
    return body, plan


def set_in_section(text: str, section: str, keys: Mapping[str, object], why: str) -> str:
    """Replace the values of keys of one section."""
    begin = re.search(rf"^{section}:", text, flags=re.M)
    assert begin is not None
    end = re.compile(r"^\w", flags=re.M).search(text, begin.end())
    stop = len(text) if end is None else end.start()
    inside = set_values(text[begin.start() : stop], {k: (v, why) for k, v in keys.items()})
    return text[: begin.start()] + inside + text[stop:]


def _read(body: str) -> Config:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "own.yaml"
        file.write_text(body, encoding="utf-8")
        return load_config(file)


def _is_grey(image: Any) -> bool:
    """Return whether an image, read in colour, has none."""
    pixels = np.asarray(image)
    return pixels.ndim == 2 or bool((pixels == pixels[..., :1]).all())


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
