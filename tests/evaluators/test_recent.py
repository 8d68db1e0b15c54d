"""What was used last is kept."""

from __future__ import annotations

from evaluators.recent import Recent


def test_what_was_not_used_for_the_longest_time_is_forgotten() -> None:
    recent: Recent[str] = Recent(limit=10)
    for key in "abc":
        recent.put(key, key.upper(), 3)
    assert recent.get("a") == "A"  # used again, so `b` is the oldest
    recent.put("d", "D", 4)
    assert [recent.get(key) for key in "abcd"] == ["A", None, "C", "D"]
    assert recent.size == 10


def test_a_value_is_replaced_and_one_that_is_too_large_is_not_kept() -> None:
    recent: Recent[str] = Recent(limit=10)
    recent.put("a", "old", 8)
    recent.put("a", "new", 2)
    assert (recent.get("a"), recent.size) == ("new", 2)
    recent.put("b", "large", 11)
    assert (recent.get("a"), recent.get("b"), recent.size) == (None, None, 0)
