"""Processes that decode images: not forked from one that computes, and given what they need."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from spaces import small_config, space_values

from configs import UserError
from experiments.data.registry import Images
from experiments.data.splits import load_splits
from search_space.kernels.involution import active_backend

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def plugins_of_other_tests(monkeypatch) -> None:
    """Forget plugins whose files other tests have removed: a loader's processes would need them."""
    for name in [name for name in sys.modules if name.startswith("evolute_plugin_")]:
        if not Path(str(sys.modules[name].__file__)).exists():
            monkeypatch.delitem(sys.modules, name)


FORKED = """
import multiprocessing
import torch
from experiments.data.processes import loading_context
from search_space.kernels.involution import involution

def compute():
    torch.set_num_threads(2)
    assert involution(torch.ones(8, 64, 32, 32), torch.ones(8, 36, 32, 32), 3).shape[0] == 8

def outcome(context, seconds):
    process = context.Process(target=compute, daemon=True)
    process.start()
    process.join(seconds)
    ended = process.exitcode
    process.kill()
    process.join()
    return "hangs" if ended is None else f"ends with {ended}"

if __name__ == "__main__":
    compute()
    print("forked", outcome(multiprocessing.get_context("fork"), 3))
    print("loader", outcome(loading_context(), 60))
"""


@pytest.mark.skipif(active_backend("cpu") != "native", reason="no C++ compiler")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="OpenMP is another one here")
def test_a_forked_child_hangs_in_the_kernels_and_a_loaders_process_does_not(tmp_path) -> None:
    """Should the first line ever read `ends`, docs/performance.md can forget its warning."""
    script = tmp_path / "forked.py"
    script.write_text(FORKED)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
    result = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.stdout.splitlines() == ["forked hangs", "loader ends with 0"], result.stderr


PLUGIN = """
import numpy as np
from PIL import Image
from experiments.data.registry import Images, Source, register_source

NUMBERS = np.arange(60)

def picture(number):
    return Image.fromarray(np.full((8, 8), 4 * number, np.uint8))

@register_source("numbered")
def numbered(data, mode):
    read = lambda index: picture(NUMBERS[index]).convert(mode)
    return Source(Images("numbered", NUMBERS % 2, ["even", "odd"], read))
"""


def refuse_fork() -> int:
    raise AssertionError("a process was forked")


def test_loaders_do_not_fork_and_know_plugins(tmp_path, monkeypatch) -> None:
    file = tmp_path / "numbered.py"
    file.write_text(PLUGIN)

    def batches(workers: int) -> list[torch.Tensor]:
        data = {"name": "numbered", "loading_workers": workers, "memory_limit_mb": 0}
        space = {**space_values(), "num_classes": 2}
        plugins = [str(file)]
        config = small_config(plugins=plugins, space=space, train={"batch_size": 8}, data=data)
        splits = load_splits(config, "cpu")
        found = [*splits.validation, *splits.train.epoch(0), *splits.train.epoch(1)]
        return [tensor for batch in found for tensor in batch]

    expected = batches(0)
    monkeypatch.setattr(os, "fork", refuse_fork)
    for ours, theirs in zip(batches(2), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_images_that_cannot_be_sent_are_named() -> None:
    lock = threading.Lock()  # as an open connection would hold
    images = Images("remote", np.zeros(1), ["a"], lambda index: lock.acquire())
    with pytest.raises(UserError, match=r"loading_workers: remote can't be read .*; 0 reads"):
        pickle.dumps(images)
    black = Images("black", np.zeros(1), ["a"], lambda index: Image.new("L", (3, 2)))
    assert pickle.loads(pickle.dumps(black)).read(0).size == (3, 2)
