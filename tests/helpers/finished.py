"""A small finished `evolute run`, which several files of tests look at."""

from __future__ import annotations

from pathlib import Path

import pytest
from trainings import one_program

CONFIG = """\
name: photos
device: cpu
space:
  input_size: 8
  in_channels: 1
  stem: {width: 8}
  candidates:
    conv3: {operator: convolution}
    inv3: {operator: involution, kernel_size: 3}
    skip: {operator: skip}
  stages:
    - {width: 16, depth: 2, expansion: 2}
    - {width: 16, depth: 2, stride: 2, expansion: 2}
data: {name: digits, limit: 400}
train: {epochs: 1, batch_size: 48}
evaluate: {calibration_images: 64, batch_size: 64}
latency: {repeats: 6, max_spread: 10}
search: {trials: 10, profile_samples: 2, workers: 0}
verify: {budget: 1.5}
retrain: {epochs: 1, batch_size: 32}
"""


def finished_run(folder: Path, config: str = CONFIG) -> Path:
    """Run the pipeline on real digits below a folder; give the work directory, ``runs/photos``."""
    from experiments.run import run_pipeline
    from experiments.settings import load_config

    (folder / "photos.yaml").write_text(config, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        one_program(patch)
        run_pipeline(load_config("photos.yaml"))
    return folder / "runs" / "photos"
