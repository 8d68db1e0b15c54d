"""Finding the work directory of a search, and a system without POSIX locks."""

from __future__ import annotations

import subprocess
import sys

import pytest

from configs.errors import UserError
from experiments.tracking.journal import Journal
from experiments.tracking.runs import find_search


def test_a_search_is_found_by_directory_or_by_any_of_its_run_ids(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("first", "second"):
        journal = Journal(tmp_path / "runs" / name)
        journal.append({"event": "run", "run": name})
        journal.mark_uploaded("local", journal.size, f"{name}-here")
        journal.mark_uploaded("http://server", journal.size, f"{name}-there")
    for run in ("runs/second", "second-here", "second-there"):
        assert find_search(run).resolve() == tmp_path / "runs" / "second"
    with pytest.raises(UserError, match=r"'third' is neither .* set MLFLOW_TRACKING_URI"):
        find_search("third")


def test_only_one_of_two_uploads(tmp_path):
    first, second = Journal(tmp_path), Journal(tmp_path)
    with first.uploading() as mine:
        assert mine
        with second.uploading() as too:
            assert not too
    with second.uploading() as now:
        assert now


def test_tracking_is_imported_where_there_is_no_fcntl():
    code = "import sys; sys.modules['fcntl'] = None; import experiments.tracking.journal"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
