"""Runs the code blocks of a network's README.md, each in a Python of its own, as a reader would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

BLOCK = re.compile(
    r"^(`[^\n]+) \(needs [^\n]+\):\n\n```python\n(.+?)\n```", re.MULTILINE | re.DOTALL
)
ROOT = Path(__file__).parents[2]


def run_blocks(folder: Path, photograph: Path, only: str = "") -> dict[str, str]:
    """Title -> what the block prints, with `photograph` as the ``photo.jpg`` beside the files."""
    Image.open(photograph).save(folder / "photo.jpg", quality=95)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    printed = {}
    for title, code in BLOCK.findall((folder / "README.md").read_text(encoding="utf-8")):
        if only in title:
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=folder, env=environment,
                capture_output=True, text=True, timeout=250,
            )  # fmt: skip
            assert done.returncode == 0, f"{title}\n{code}\n{done.stderr[-2000:]}"
            printed[title] = done.stdout.strip()
    return printed
