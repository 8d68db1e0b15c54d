"""Libraries with our operators that other runtimes load, compiled at first use like the kernels."""

from __future__ import annotations

import ctypes
import logging
import subprocess
from collections.abc import Sequence
from pathlib import Path

from search_space.kernels.compilation import load_library
from search_space.kernels.expert_conv import cpu as expert_conv
from search_space.kernels.involution import cpu as involution

logger = logging.getLogger("evolute")


def load_extension(source: Path, runtime: str, flags: Sequence[str]) -> ctypes.CDLL | None:
    """Return the library of an extension with our kernels in it.

    None, with a warning, where it can't be compiled: involutions and expert convolutions are then
    standard graphs.

    Args:
        source: The C++ file that tells a runtime of our operators.
        runtime: How people call it.
        flags: That find the runtime's headers and libraries.
    """
    experts = Path(expert_conv.__file__).with_name("expert_conv.cpp")
    kernels = (Path(involution.__file__).with_name("involution.cpp"), experts)
    flags = [f"-I{experts.parent}", *flags]
    try:
        return load_library(source, {"evolute_set_threads": 1}, *kernels, flags=flags)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        reason = str(error).splitlines()[0]
        logger.warning("our operators run as standard graphs in %s: %s", runtime, reason)
        return None
