"""Hypothesis strategies: what a person, a script or a broken file may put where a value belongs."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)

SUSPECTS: list[Any] = [
    -1, 0, 1, 2, 3, 4, True, False, None, 0.5, 3.0, math.inf, -math.inf, math.nan, 1e-300, 1e300,
    10**6, 2**32, 10**30, "", "3", "1e-3", "..", "a b", "a.b", "conv3", "x" * 300, "\0", [], {},
]  # fmt: skip
suspects = st.sampled_from(SUSPECTS)
scalars = st.one_of(suspects, st.integers(-9, 99), st.floats(), st.booleans(), st.text(max_size=4))
values = st.one_of(
    suspects,
    st.recursive(
        scalars,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
        ),
        max_leaves=5,
    ),
)
