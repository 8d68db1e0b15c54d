"""Hypothesis strategies: what a person, a script or a broken file may put where a value belongs."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st

quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)

numbers = st.one_of(
    st.integers(-4, 12),
    st.sampled_from([10**6, 2**31, 2**32, 2**63, 10**30, -(10**30)]),
    st.floats(),
    st.sampled_from([0.5, 1.0, 3.0, 1e-300, 1e300]),
)
scalars = st.one_of(
    numbers,
    st.booleans(),
    st.none(),
    st.text(max_size=4),
    st.sampled_from(["", "3", "1e-3", "..", "a b", "a.b", "auto", "cuda:²", "conv3", "x" * 300]),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(scalars, inner, max_size=3)
    ),
    max_leaves=5,
)
