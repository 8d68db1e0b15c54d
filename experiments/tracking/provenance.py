"""Where a result came from, as flat texts: the configuration, the code, the command, the machine.

Together with the seeds (which are keys of the configuration) and the device's fingerprint, this is
what a run needs in order to be repeated.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from configs.secrets import redact

LONGEST_VALUE = 5000  # characters of a parameter or a tag; MLflow refuses more than 6000


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return a nested configuration as MLflow parameters, such as ``{"search.trials": "9"}``.

    Lists of mappings get an index (``stages.0.width``), other values are written as JSON; passwords
    in URLs are left out, very long values are cut.
    """
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
        elif _is_list_of_mappings(value):
            flat |= flatten({str(i): item for i, item in enumerate(value)}, f"{name}.")
        else:
            flat[sys.intern(name)] = sys.intern(_text(value))  # trials have thousands of equal ones
    return flat


def _is_list_of_mappings(value: Any) -> bool:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return is_list and len(value) > 0 and all(isinstance(item, Mapping) for item in value)


def _text(value: Any) -> str:
    text = redact(value if isinstance(value, str) else json.dumps(value, default=str))
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def code_version() -> dict[str, str]:
    """Return which code runs: versions of Evolute, Python and torch, and the git commit, if any.

    ``git.commit`` and ``git.dirty`` are there only when this very file is under version control,
    and not when it was installed into an environment that lies in somebody else's checkout.
    """
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in ("evolute", "torch", "timm"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    if _git("ls-files", "--error-unmatch", __file__):
        found["git.commit"] = _git("rev-parse", "HEAD")
        found["git.dirty"] = str(bool(_git("status", "--porcelain", "-uno"))).lower()
    return found


def command_line() -> str:
    """Return the command that runs, empty where it is no `evolute`.

    Folders above a file, addresses and URIs are left out: a report must not tell them.
    """
    if Path(sys.argv[0]).name not in ("evolute", "evolute.exe", "__main__.py"):
        return ""
    return shlex.join(["evolute", *map(_without_places, sys.argv[1:])])


def command_tag() -> dict[str, str]:
    """Return the command as a tag of its own, named by the time (UTC); none for no command."""
    line = command_line()
    return {f"command.{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}": line} if line else {}


def _without_places(argument: str) -> str:
    text = re.sub(r"\w[\w+.-]*:/+.*", "URI", argument, flags=re.S)  # a password may hold anything
    text = re.sub(r"[\w.-]+:\d{4,5}\b", "ADDRESS", text)
    return re.sub(r"(?:(?<=^)|(?<=[=\s:\[{,]))[~/](?:[^/\s,\]}]*/)*(?=[^/\s,\]}]*)", "", text)


def machine() -> dict[str, str]:
    """Return what computes: the processor and its cores, and the GPUs. No name of a host."""
    import torch

    from evaluators.fingerprint import device_name

    found = {"machine.cpu": device_name("cpu"), "machine.cores": str(os.cpu_count())}
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        found["machine.gpus"] = ", ".join(names)
    return found


def _git(*arguments: str) -> str:
    """Return what git prints, or nothing where there is no git, no repository or no answer."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
