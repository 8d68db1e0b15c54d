"""The rooms have generic names: tell when Python would import somebody else's `search` for ours.

Python takes the first package of a name that it finds: a folder ``experiments/`` in the working
directory comes before the installed one.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

ROOMS = ("experiments", "search", "evaluators", "supernet", "search_space", "configs")
HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # the rooms lie beside evolute/


def check_rooms(top: str = ROOMS[0]) -> None:
    """Check that a room and those below it, which it imports, are Evolute's own.

    Raises:
        ImportError: One was taken from somewhere else; the message says from where.
    """
    for room in ROOMS[ROOMS.index(top) :]:
        found, ours = _place_of(room), os.path.join(HOME, room)
        if os.path.realpath(found) != os.path.realpath(ours):
            raise ImportError(
                f"{room!r} is one of Evolute's packages, but Python takes another one for it:\n"
                f"  found: {found}\n"
                f"  ours:  {ours}\n"
                "Rename the one that was found, or start Python where it is not on sys.path. (The "
                "command `evolute` does not look into the working directory, `python -m` does.)",
                name=room,
            )


def _place_of(room: str) -> str:
    """The folder or file that ``import room`` takes, or has taken."""
    try:
        specification = find_spec(room)
    except ValueError:  # it is in sys.modules, but was not imported
        return "a module that was made by hand"
    if specification is None:
        return "nothing"
    folders = list(specification.submodule_search_locations or ())
    return folders[0] if folders else str(specification.origin)
