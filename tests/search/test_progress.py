"""Progress in words."""

from __future__ import annotations

from search.progress import SearchProgress, describe


def test_progress_in_one_line() -> None:
    progress = SearchProgress(
        done=12,
        total=60,
        counts={"complete": 9, "infeasible": 3},
        front_size=4,
        best={"accuracy": 91.0},
        hypervolume=8.3145,
        seconds_left=3725.0,
    )
    line = "trial 12/60  front 4  hypervolume 8.315  infeasible 3  left 1:02:05"
    assert describe(progress) == line
    assert describe(progress, bar=True) == f"{'━' * 4}{'╌' * 16}  {line}"
