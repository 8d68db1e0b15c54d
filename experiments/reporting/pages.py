"""Pages, each one HTML file that needs no network and no server, and what they are made of.

The script of a page shows its data, which is within it as JSON. Texts are escaped by whoever writes
them into HTML, and by the browser where a script shows them.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from configs.atomic import write_atomically


def ranking_html(data: Mapping[str, Any], drawn: Path, title: str, path: Path) -> Path:
    """Write the page of a ranking, its picture within.

    Args:
        data: What `templates/rank.js` shows.
    """
    text = "Accuracy trained alone over each predictor"
    return write_page("rank", title, data, path, {"PICTURE": picture(drawn, text)})


def write_page(
    name: str,
    title: str,
    data: Any,
    path: Path,
    parts: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write a page from ``templates/NAME.html``, with the data that ``NAME.js`` shows.

    Args:
        parts: HTML for further places of the template.
    """
    every = {
        "TITLE": html.escape(title),
        "STYLE": _template("page.css"),
        "DATA": _script_safe(data),
        "SCRIPT": _template("strip.js") + _template(f"{name}.js"),
        **parts,
    }
    # In one pass: what is put in is never searched for placeholders itself.
    page = re.sub("@([A-Z]+)@", lambda found: every[found[1]], _template(f"{name}.html"))
    write_atomically(path, page)
    return path


def picture(file: Path, text: str) -> str:
    """Return a PNG file as HTML, within the page, with a text for those who don't see it."""
    encoded = base64.b64encode(file.read_bytes()).decode()
    text = html.escape(text, quote=True)
    source = f"data:image/png;base64,{encoded}"
    return f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """Return a table as HTML, its first column a head of the row.

    Args:
        heads: As texts.
        rows: As HTML.
    """
    head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in heads)
    lines = [
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    ]
    return (
        f'<div class="scroll"><table class="{kind or "plain"}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _template(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _script_safe(data: Any) -> str:
    """Return JSON for a script element: no ``</script>`` and no ``<!--`` in any string."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
