"""The server and the metric of docs/latency.md, run against each other."""

from __future__ import annotations

import re
import threading
from http.server import HTTPServer
from pathlib import Path

import pytest
import torch
from spaces import small_space

import evolute
from evaluators import measure_in_order

GUIDE = Path(__file__).parents[1] / "docs" / "latency.md"


def code(name: str) -> str:
    found = re.search(rf"`{name}\.py`:\n\n```py\n(.*?)```", GUIDE.read_text("utf-8"), re.S)
    assert found is not None
    return found[1]


def test_a_phone_behind_http_is_a_metric(tmp_path: Path, monkeypatch) -> None:
    board: dict[str, object] = {}
    exec(compile(code("board"), "board.py", "exec"), board)
    server = HTTPServer(("127.0.0.1", 0), board["Board"])  # type: ignore[arg-type]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PHONE_URL", f"http://127.0.0.1:{server.server_port}")
    plugin = tmp_path / "phone.py"
    plugin.write_text(code("phone"), encoding="utf-8")
    evolute.load_plugins([plugin])
    space = small_space(candidates=("conv3", "inv3", "skip"))
    subject = evolute.Subject(
        network=evolute.build_network(space, ("conv3", "inv3", "skip", "conv3")),
        image_shape=(1, 8, 8),
        load_data=lambda: pytest.fail("no images are needed"),
        settings=evolute.LatencySettings(),
        device=torch.device("cpu"),
    )
    try:
        values = measure_in_order(subject, ["phone_ms", "params"], lambda values: False)
    finally:
        server.shutdown()
        server.server_close()
    assert values["phone_ms"] > 0
    assert values["params"] > 0
