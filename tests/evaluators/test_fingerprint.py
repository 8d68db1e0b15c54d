"""Fingerprints differ in everything that changes a latency, and in nothing else."""

from __future__ import annotations

from evaluators import LatencySettings, fingerprint, fingerprint_key


def test_fingerprints_differ_in_what_changes_the_time() -> None:
    changes = [
        {},
        {"threads": 2},
        {"dtype": "bfloat16"},
        {"channels_last": False},
        {"runtime": "compile"},
    ]
    keys = [
        fingerprint_key(fingerprint((3, 32, 32), LatencySettings(**change))) for change in changes
    ]
    keys.append(fingerprint_key(fingerprint((3, 32, 32), LatencySettings(batch=2))))
    keys.append(fingerprint_key(fingerprint((3, 64, 64), LatencySettings())))
    assert len(set(keys)) == len(keys)
    assert keys[0] == fingerprint_key(fingerprint((3, 32, 32), LatencySettings()))
    careful = LatencySettings(repeats=900, max_spread=0.1, retries=0)  # the same quantity
    assert keys[0] == fingerprint_key(fingerprint((3, 32, 32), careful))
