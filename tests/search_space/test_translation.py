"""Hand-made networks as starting points of a search in another space."""

from __future__ import annotations

import dataclasses

import pytest
from spaces import space_values

from configs import UserError
from configs.space import space_from_dict
from search_space import (
    SearchSpace,
    build_network,
    load_architecture,
    named_architecture,
    reference_architecture,
    save_architecture,
    translate,
)


def imagenet_space() -> SearchSpace:
    return SearchSpace.from_yaml("imagenet")


def test_a_reference_network_is_a_point_of_the_preset() -> None:
    space = imagenet_space()
    source, rednet = named_architecture("evolute_rednet50")
    point = translate(rednet, source, space)
    assert point == ("inv7",) * 16
    ours = sum(p.numel() for p in build_network(space, point).parameters())
    theirs = sum(p.numel() for p in build_network(source, rednet).parameters())
    assert ours == theirs


def test_what_the_target_has_more_is_skipped() -> None:
    source, small = reference_architecture("evolute_rednet26")
    point = translate(small, source, imagenet_space())
    assert point == (
        *("inv7", "skip", "skip"), *("inv7", "inv7", "skip", "skip"),
        *("inv7",) * 4, "skip", "skip", *("inv7", "skip", "skip"),
    )  # fmt: skip


def test_there_and_back_through_a_file(tmp_path) -> None:
    source, rednet = reference_architecture("evolute_rednet26")
    file = save_architecture(tmp_path / "rednet.yaml", source, rednet)
    assert named_architecture(str(file)) == load_architecture(file)


def test_what_does_not_fit_is_named() -> None:
    space = imagenet_space()
    for name, reason in (
        ("evolute_rednet101", "23 layers don't fit into 6"),
        ("evolute_sknet50", None),  # the same operators, whatever their width
        ("evolute_rednet5", "did you mean 'evolute_rednet50'"),
    ):
        if reason is None:
            assert set(translate(*reversed(named_architecture(name)), space)) == {"sk"}
            continue
        with pytest.raises(UserError, match=reason):
            translate(*reversed(named_architecture(name)), space)
    lacking = dataclasses.replace(space.config, candidates={"conv3": {"operator": "convolution"}})
    with pytest.raises(UserError, match=r"no candidate is involution\(kernel_size=7"):
        translate(*reversed(named_architecture("evolute_rednet50")), SearchSpace(lacking))
    with pytest.raises(UserError, match="stages"):
        few = SearchSpace(space_from_dict(space_values()))
        translate(*reversed(named_architecture("evolute_rednet50")), few)
