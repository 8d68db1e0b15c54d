"""Joining Ray; the searches on it are in `tests/search/test_run.py`."""

from __future__ import annotations

import pytest

from configs.errors import UserError


def test_wrong_address_is_refused_at_once() -> None:
    from search.executors.ray import ray_session

    session = ray_session("127.0.0.1:1", workers=1, cpus_per_worker=1, gpus_per_worker=0)
    with pytest.raises(UserError, match=r"'127\.0\.0\.1:1': no Ray cluster"), session:
        pass
