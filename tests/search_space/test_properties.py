"""Operators and spaces with any options: refused in words, or built and right; never a trace."""

from __future__ import annotations

import math
from typing import Annotated, Any

import pytest
import torch
from anything import SUSPECTS, quick, scalars, suspects
from hypothesis import given, settings
from hypothesis import strategies as st
from spaces import random_images, space_values
from torch import nn

from configs import UserError
from search_space import SearchSpace, build_operator, operator_names, operator_options
from search_space.options import Allowed, check_options
from supernet import Supernet

RIGHT = {"kernel_size": 5, "alpha": 0.5, "ratio": 3, "cheap_kernel_size": 1}
SWITCHES = {"depthwise", "modulated", "activation"}


@pytest.mark.parametrize("name", [name for name in operator_names() if name != "skip"])
def test_any_options_are_refused_or_compute(name: str) -> None:
    option_values = st.one_of(suspects, st.integers(1, 9), scalars)
    chosen = st.fixed_dictionaries(
        {}, optional=dict.fromkeys([*operator_options(name), "kernel"], option_values)
    )

    @settings(quick, max_examples=40)
    @given(chosen, st.tuples(*[st.integers(1, 9)] * 5), st.sampled_from([1, 2]))
    def check(options: dict[str, Any], sizes: tuple[int, ...], stride: int) -> None:
        batch, in_channels, out_channels, height, width = sizes
        try:
            operator = build_operator(name, in_channels, out_channels, stride, **options).eval()
        except UserError as error:
            assert any(option in str(error) for option in options)
            return
        with torch.no_grad():
            out = operator(torch.randn(batch, in_channels, height, width))
        shape = (batch, out_channels, math.ceil(height / stride), math.ceil(width / stride))
        assert out.shape == shape and out.isfinite().all()

    check()


@pytest.mark.parametrize("name", [name for name in operator_names() if name != "skip"])
def test_every_option_takes_what_is_right_and_refuses_what_is_not(name: str) -> None:
    for option in operator_options(name):
        switch = option in SWITCHES
        right = not switch and RIGHT.get(option, 2)
        out = build_operator(name, 6, 4, 2, **{option: right})(torch.randn(2, 6, 5, 7))
        assert out.shape == (2, 4, 3, 4)
        for value in (-1, math.inf, math.nan, "3", None, [], {}, 1 if switch else True):
            with pytest.raises(UserError, match=f"^{option}: .* is not possible; "):
                build_operator(name, 6, 4, 1, **{option: value})


def test_options_of_ones_own_are_checked_by_their_signature() -> None:
    def mine(
        in_channels, out_channels, stride, shift=0, depth: int = 2, share: float = 0.5,
        side: Annotated[int, Allowed(lambda n: n in (2, 4), "2 or 4 is needed")] = 2,
        mode: str = "a", anything=None,
    ):  # fmt: skip
        raise AssertionError

    for right in ({"shift": 0}, {"shift": 5}, {"depth": 1}, {"share": -2}, {"side": 4},
                  {"mode": ""}, {"anything": [1]}):  # fmt: skip
        check_options("mine", mine, right)
    for option, value in [
        ("shift", -1), ("shift", True), ("shift", 0.5), ("depth", 0), ("depth", "1"),
        ("share", math.inf), ("share", False), ("side", 3), ("mode", 1),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=f"^{option}: {value!r} is not possible; "):
            check_options("mine", mine, {option: value})
    with pytest.raises(UserError, match="no option 'dept'; did you mean 'depth'"):
        check_options("mine", mine, {"dept": 1})


def assert_refused_or_runs(values: dict[str, Any]) -> str:
    """Check either outcome; return the message of a refusal."""
    try:
        space = SearchSpace.from_dict({"space": values})
    except UserError as error:
        assert str(error)
        return str(error)
    supernet = Supernet(space).eval()
    for name in space.layers[0].candidates:
        architecture = tuple(
            name if name in layer.candidates else layer.candidates[0] for layer in space.layers
        )
        extracted = supernet.extract(architecture).eval()
        with torch.no_grad():
            logits = supernet(random_images(2), architecture)
            assert torch.equal(extracted(random_images(2)), logits)
        assert logits.shape == (2, 10)
    return ""


def named_space(name: Any) -> dict[str, Any]:
    candidates = {name: {"operator": "convolution"}, "other": {"operator": "depthwise"}}
    stages = [{"width": 4, "depth": 1, "stride": 2, "expansion": 1}]
    return {**space_values(), "stem": {"width": 4}, "candidates": candidates, "stages": stages}


ATTRIBUTES = [name for name in dir(nn.ModuleDict()) if not name.startswith("__")]


@quick
@given(st.one_of(st.text(max_size=5), st.sampled_from([*SUSPECTS[:-2], *ATTRIBUTES, "a-b", "3x"])))
def test_any_candidate_name_is_refused_or_works(name: Any) -> None:
    message = assert_refused_or_runs(named_space(name))
    assert not message or repr(name) in message


@pytest.mark.parametrize(
    "name", ["", ".", "a.b", "a b", " a", "a\n", "_a", "-a", "a/b", *ATTRIBUTES]
)
def test_impossible_candidate_names_are_refused(name: str) -> None:
    message = assert_refused_or_runs(named_space(name))
    assert f"the name {name!r} is not possible; " in message


@pytest.mark.parametrize("name", ["conv3", "3", "a-b", "A_b", "卷积3", "größe", "items1"])
def test_every_other_candidate_name_works(name: str) -> None:
    assert not assert_refused_or_runs(named_space(name))


@quick
@given(st.data())
def test_any_candidate_is_refused_or_works(data: st.DataObject) -> None:
    """Operators and options at once, as a file says them."""
    name = data.draw(st.sampled_from([*operator_names(), "convolutoin", 3, None]))
    known = operator_options(name) if name in operator_names() else ["kernel_size"]
    option_values = st.one_of(suspects, st.integers(1, 7))
    options = data.draw(
        st.dictionaries(st.sampled_from([*known, "kernel", ""]), option_values, max_size=2)
    )
    values = named_space("mine")
    values["candidates"]["mine"] = {"operator": name, **options}
    message = assert_refused_or_runs(values)
    assert not message or "mine" in message


def test_a_skip_takes_no_options() -> None:
    values = named_space("skip")
    values["candidates"]["skip"] = {"operator": "skip", "kernel_size": 3}
    assert "'skip' has no option 'kernel_size'" in assert_refused_or_runs(values)


def test_an_operator_that_fails_is_named(tmp_path) -> None:
    (tmp_path / "own.py").write_text(
        "from search_space import register_operator\n"
        "@register_operator('own_failing')\n"
        "def own(in_channels, out_channels, stride):\n    raise RuntimeError('no memory')\n"
    )
    values = named_space("mine")
    values["candidates"]["mine"] = {"operator": "own_failing"}
    with pytest.raises(UserError, match=r"candidates\.mine: 'own_failing' fails: RuntimeError: no"):
        SearchSpace.from_dict({"space": values, "plugins": [str(tmp_path / "own.py")]})
