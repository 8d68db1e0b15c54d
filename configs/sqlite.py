"""SQLite files as URLs: SQLAlchemy and MLflow read some characters of a path as something else."""

from __future__ import annotations

from pathlib import Path

from configs.errors import UserError

SQLITE = "sqlite:///"
IN_URLS = "?#%"  # the begin of a query, of a fragment, of a quoted character


def sqlite_url(file: Path) -> str:
    """Return the URL of a database file, whatever the working directory.

    Raises:
        UserError: A URL cannot name it; another file would be written, or none.
    """
    path = str(file.expanduser().resolve())
    wrong = [character for character in path if character in IN_URLS or not character.isprintable()]
    if wrong:
        raise UserError(
            f"{path!r}: {wrong[0]!r} is not possible in the path of a database, where it would "
            "mean something else; choose another directory (--out), or rename what is above it"
        )
    return f"{SQLITE}{path}"
