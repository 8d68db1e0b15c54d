"""The small things that every room uses: differences, suggestions, atomic files, registries."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.atomic import replacing, write_atomically
from configs.differences import first_difference
from configs.errors import UserError
from configs.registry import Registry
from configs.suggestions import did_you_mean


def test_first_difference_finds_the_place() -> None:
    stored = {"stages": [{"width": 16, "stride": 1}, {"width": 32, "stride": 2}]}
    wanted = {"stages": [{"width": 16, "stride": 1}, {"width": 48, "stride": 2}]}
    assert first_difference(stored, wanted) == "stages[1].width was 32 and is 48 now"
    assert first_difference(stored, stored) == ""


def test_a_near_name_is_suggested_and_a_far_one_lists_what_there_is() -> None:
    assert did_you_mean("conv", ["conv3", "inv7"]) == "did you mean 'conv3'?"
    assert did_you_mean("zzz", ["conv3", "inv7"]) == "known: conv3, inv7"
    assert did_you_mean("zzz", []) == "known: none"
    assert did_you_mean("zzz", ["a"], "see the list") == "see the list"
    assert did_you_mean("zzz", map(str, range(30))).endswith("19, ...")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "new folder" / "file.txt"
    write_atomically(file, "old")
    with pytest.raises(RuntimeError), replacing(file) as partial:
        partial.write_text("half of the n")
        assert file.read_text() == "old"
        raise RuntimeError
    assert file.read_text() == "old"
    write_atomically(file, b"new")
    assert file.read_text() == "new"
    assert list(file.parent.iterdir()) == [file]  # nothing partial is left


def test_a_registry_refuses_two_things_of_one_name_and_names_the_nearest() -> None:
    registry: Registry[object] = Registry("shape")

    def circle() -> None: ...

    def square() -> None: ...

    registry.register("circle")(circle)
    registry.register("circle")(circle)  # its file was run twice
    with pytest.raises(UserError, match="shape 'circle' is registered twice"):
        registry.register("circle")(square)
    with pytest.raises(UserError, match="shape 'cirkle' does not exist; did you mean 'circle'"):
        registry["cirkle"]
    assert dict(registry) == {"circle": circle}
