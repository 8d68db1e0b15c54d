"""The text under each field of the schema, for the files that `evolute init` writes."""

from __future__ import annotations

import ast
import dataclasses
import inspect


def field_documentation(section: type) -> dict[str, str]:
    """Field name -> the docstring under it, on one line; inherited fields included."""
    found: dict[str, str] = {}
    for cls in reversed(section.__mro__):
        if not dataclasses.is_dataclass(cls):
            continue
        body = ast.parse(inspect.getsource(cls)).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:]):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                found[field.target.id] = " ".join(str(text.value.value).split())
    return found
