"""Which implementation of an operator runs on a device."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping

from configs.errors import UserError

PREFERRED = {"cpu": "native", "cuda": "triton"}  # device -> backend, where an operator has it


def choose_backend(
    operator: str, kind: str, kernels: Mapping[str, Callable[[str], object]], fallback: str
) -> str:
    """Return the backend that runs an operator on a kind of device.

    The environment variable ``EVOLUTE_<OPERATOR>`` (auto, or a backend's name) forces a choice; it
    is read here alone, so that each operator obeys its own. A backend that cannot run is answered
    with a warning and the fallback.

    Args:
        operator: Such as ``involution``.
        kind: Type of the device, such as ``cpu``.
        kernels: The fast backends: a name, and a function of the kind of device that raises
            whatever keeps the backend from running there.
        fallback: The backend in plain torch, which runs everywhere.

    Raises:
        UserError: The variable names no backend of the operator.
    """
    variable = f"EVOLUTE_{operator.upper()}"
    backends = (*kernels, fallback)
    wanted = os.environ.get(variable, "auto")
    if wanted not in ("auto", *backends):
        raise UserError(f"{variable}={wanted}: expected one of auto, {', '.join(backends)}")
    if wanted == "auto":
        wanted = PREFERRED.get(kind, fallback)
    if wanted not in kernels:
        return fallback
    try:
        kernels[wanted](kind)
    except Exception as error:  # whatever a broken toolchain does, it must not end a search
        warnings.warn(
            f"{operator} on {kind}: the {wanted} kernel is not available, "
            f"the slower form `{fallback}` runs instead ({error})",
            RuntimeWarning,
            stacklevel=3,
        )
        return fallback
    return wanted


def require_cpu(kind: str) -> None:
    """Refuse every other device, on behalf of a native kernel.

    Raises:
        RuntimeError: The device is not a CPU.
    """
    if kind != "cpu":
        raise RuntimeError("it runs on the CPU only")
