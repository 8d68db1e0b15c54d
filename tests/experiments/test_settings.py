"""Configurations whose names are looked up: metrics, samplers, runtimes, blocks, sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs import UserError, preset_names
from experiments.settings import goal_of, load_config
from search.goal import Goal

CONFIG = """\
name: photos
space:
  candidates:
    conv3: {operator: convolution}
    skip: {operator: skip}
  stages:
    - {width: 16, depth: 2}
    - {width: 32, depth: 2, stride: 2}
search:
  trials: 9
"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        # file and line, key, value where there is one, and what would be right
        ("  trials: 9", "  objectives: {acuracy: maximize}",
         [":10:", "search.objectives.acuracy", "did you mean 'accuracy'"]),
        ("  trials: 9", "  objectives: {accuracy: minimize}",
         [":10:", "search.objectives.accuracy", "'minimize'", "use 'maximize'"]),
        ("  trials: 9", "  objectives: {params: maximize}", ["search.objectives.params", "lower"]),
        ("  trials: 9", "  constraints: {accuracy: 90}", ["search.constraints", "upper bound"]),
        ("  trials: 9", "  constraints: {latency_ms: -1}",
         ["search.constraints.latency_ms", "-1", "positive"]),
        ("  trials: 9", "  constraints: {macks: 3}",
         [":10:", "search.constraints.macks", "'macs'"]),
        ("  trials: 9", "  features: [naswott]",
         [":10:", "search.features", "'naswott'", "mean 'naswot'"]),
        ("  trials: 9", "  sampler: nsga3", [":10:", "search.sampler", "'nsga3'", "'nsga2'"]),
        ("search:\n  trials: 9", "latency: {runtime: onnx}",
         [":9:", "latency.runtime", "'onnx'", "onnxruntime"]),
        ("search:\n  trials: 9", "data: {name: digit}",
         [":9:", "data.name", "'digit'", "did you mean 'digits'"]),
        ("{width: 16, depth: 2}", "{width: 16, depth: 2, block: bottelneck}",
         [":7:", "space.stages.0.block", "'bottelneck'", "did you mean 'bottleneck'"]),
        ("{operator: convolution}", "{operator: convolutoin}",
         [":4:", "'convolutoin'", "did you mean 'convolution'"]),
        ("{operator: convolution}", "{operator: convolution, kernel: 3}",
         [":4:", "'kernel'", "did you mean 'kernel_size'"]),
    ],
)  # fmt: skip
def test_a_name_that_does_not_exist_is_refused(
    tmp_path: Path, old: str, new: str, expected: list[str]
) -> None:
    assert old in CONFIG
    file = tmp_path / "photos.yaml"
    file.write_text(CONFIG.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_config(file)
    message = str(caught.value)
    assert message.startswith(str(file))
    for part in expected:
        assert part in message


def test_names_of_a_plugin_are_known_before_anything_is_checked(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import evolute\n"
        "@evolute.register_metric('lines', label='lines', direction='minimize', effort=0)\n"
        "def lines(subject): return 3.0\n"
    )
    file = tmp_path / "photos.yaml"
    objectives = "  objectives: {accuracy: maximize, lines: minimize}\nplugins: [mine.py]"
    file.write_text(CONFIG.replace("  trials: 9", objectives), encoding="utf-8")
    goal = goal_of(load_config(file, ["search.constraints={lines: 4}"]))
    assert goal == Goal({"accuracy": "maximize", "lines": "minimize"}, {"lines": 4.0})


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_names_what_exists(preset: str) -> None:
    assert load_config(preset).name == preset
