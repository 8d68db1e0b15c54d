"""Files a run is resumed from, written so that a kill at any moment leaves a whole one."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from configs.atomic import replacing
from configs.errors import UserError


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write nested tensors and plain values atomically."""
    with replacing(path, size=_bytes(state)) as partial:
        torch.save(state, partial)


def _bytes(state: Any) -> int:
    if isinstance(state, Tensor):
        return state.nbytes
    values = state.values() if isinstance(state, dict) else state
    return sum(map(_bytes, values)) if isinstance(state, (dict, list, tuple)) else 0


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; only tensors and plain values are unpickled.

    Raises:
        UserError: The file is missing or damaged.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such checkpoint; train first") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: the checkpoint is damaged ({reason}); move it away to start this training "
            "again. Nothing else was changed."
        ) from None


def save_weights(path: Path, module: nn.Module, metadata: Mapping[str, str] | None = None) -> None:
    """Write a module's parameters and buffers as safetensors, atomically.

    Args:
        metadata: Kept in the file's head, where `safetensors.safe_open` finds it.
    """
    from safetensors.torch import save_file

    tensors = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    with replacing(path, size=_bytes(tensors)) as partial:
        save_file(tensors, partial, {"format": "pt", **(metadata or {})})


def read_metadata(path: Path) -> dict[str, str]:
    """Return what `save_weights` kept in the head of a file.

    Raises:
        UserError: The file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: the weights are damaged ({error})") from None


def load_weights(path: Path, module: nn.Module) -> None:
    """Load safetensors into a module.

    Raises:
        UserError: The file is missing or damaged, or its weights belong to another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights: dict[str, Tensor] = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: there are no such weights; train first") from None
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: the weights are damaged ({error}); move them away, and what wrote them "
            "writes them again: `evolute train` those of a supernet, from its checkpoint"
        ) from None
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise UserError(f"{path}: these weights belong to another network: {first[:300]}") from None
