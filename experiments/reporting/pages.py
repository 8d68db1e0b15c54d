"""Pages, each one HTML file that needs no network and no server.

On that of a front every trial is a point; pointing at it, clicking it, or walking with the arrow
keys shows its architecture and metrics. The axes can be any two metrics, and the table sorts by any
column. That of a ranking has the table of the predictors, their picture, and all networks.
"""

from __future__ import annotations

import base64
import html
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.atomic import write_atomically
from evaluators.metrics import by_registration, describe_metric
from experiments.reporting.colours import colours_of, ink_on
from experiments.reporting.plots import front_axes
from search.trials import SearchResult
from search_space import ChoiceSpace


def front_html(result: SearchResult, space: ChoiceSpace, path: Path) -> Path:
    """Write the page. Whatever the texts contain, nothing in them is run or shown as markup."""
    return _write("front", result.study_name, _data(result, space), path)


def ranking_html(data: Mapping[str, Any], picture: Path, title: str, path: Path) -> Path:
    """Write the page of a ranking, its picture within.

    Args:
        data: What `templates/rank.js` shows.
    """
    encoded = base64.b64encode(picture.read_bytes()).decode()
    return _write("rank", title, {**data, "picture": f"data:image/png;base64,{encoded}"}, path)


def _write(name: str, title: str, data: Any, path: Path) -> Path:
    parts = {
        "TITLE": html.escape(title),
        "STYLE": _template("front.css"),
        "DATA": _script_safe(data),
        "SCRIPT": _template("strip.js") + _template(f"{name}.js"),
    }
    # In one pass: what is put in is never searched for placeholders itself.
    page = re.sub("@([A-Z]+)@", lambda found: parts[found[1]], _template(f"{name}.html"))
    write_atomically(path, page)
    return path


def _template(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _script_safe(data: Any) -> str:
    """Return JSON for a script element: no ``</script>`` and no ``<!--`` in any string."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _data(result: SearchResult, space: ChoiceSpace) -> dict[str, Any]:
    places = {record.number: index for index, record in enumerate(result.front)}
    # Members of the front as they were measured last, the others as the search saw them.
    records = [
        result.front[places[record.number]] if record.number in places else record
        for record in result.trials
    ]
    x, y = front_axes(result.goal.objectives)
    metrics = by_registration({name for record in records for name in record.metrics})
    return {
        "x": x,
        "y": y,
        "labels": {name: describe_metric(name).title for name in metrics},
        "metrics": metrics,
        "objectives": result.goal.objectives,
        "constraints": result.goal.bounds,
        "stages": [layer.stage for layer in space.layers],
        "colours": {name: [fill, ink_on(fill)] for name, fill in colours_of(space).items()},
        "trials": [
            {
                "number": record.number,
                "front": places.get(record.number),
                "state": record.state,
                "message": record.message,
                "architecture": record.architecture,
                "metrics": {k: v for k, v in record.metrics.items() if math.isfinite(v)},
            }
            for record in records
        ],
    }
