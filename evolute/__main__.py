"""``python -m evolute`` is the command `evolute`; torchrun needs a module."""

from __future__ import annotations

import sys

from evolute.rooms import check_rooms


def main() -> None:
    """Run the command line, if it is ours."""
    try:
        check_rooms()
    except ImportError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    from experiments.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
