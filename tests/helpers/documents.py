"""The documents of the project and the code blocks in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.S | re.M)


@dataclass(frozen=True)
class Block:
    """A fenced block: `name` is the file that the text calls it, such as ``shuffle.py``, or ``."""

    document: str
    line: int
    language: str
    text: str
    name: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks(*languages: str) -> Iterator[Block]:
    """Every block in one of the languages; ``""`` is that of blocks that name none."""
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for found in BLOCK.finditer(text):
            if found[1] in languages:
                before = text[: found.start()]
                named = re.search(r"`(\w+\.py)`:\n\n$", before)
                line = before.count("\n") + 1
                name = str(document.relative_to(ROOT))
                yield Block(name, line, found[1], found[2], named[1] if named else "")


def inline_code() -> Iterator[tuple[str, str]]:
    """Every `code` in running text with the name of its document, on one line."""
    for document in DOCUMENTS:
        text = BLOCK.sub("", document.read_text(encoding="utf-8"))
        for code in re.findall(r"`([^`]+)`", text):
            yield str(document.relative_to(ROOT)), " ".join(code.split())
