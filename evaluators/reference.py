"""The reference network: the unit in which latencies are taken, and its time on this host.

The unit's length in milliseconds has to stay the same for as long as values are compared, across
workers, restarts and days, while the machine itself runs 20 % faster or slower by the hour. So it
is taken once per host and kept in a small file, beside the device locks.
"""

from __future__ import annotations

import torch
from torch import nn

from configs.atomic import write_atomically
from evaluators.device_lock import host_folder
from evaluators.fingerprint import Fingerprint, fingerprint_key

REFERENCE_SHAPE = (1, 3, 32, 32)


def reference_network() -> nn.Module:
    """Five convolutions at 32 px: about a millisecond on one CPU core. Never change it."""
    generator = torch.Generator().manual_seed(0)
    layers: list[nn.Module] = []
    for in_channels, out_channels in ((3, 32), (32, 32), (32, 32), (32, 32), (32, 32)):
        convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, generator=generator)
        layers += [convolution, nn.BatchNorm2d(out_channels), nn.ReLU()]
    return nn.Sequential(*layers)


def load_reference_ms(fingerprint: Fingerprint) -> float | None:
    """The unit's length on this host for the reference's fingerprint; None before the first."""
    path = host_folder() / f"reference-{fingerprint_key(fingerprint)}"
    return float(path.read_text()) if path.exists() else None


def save_reference_ms(fingerprint: Fingerprint, milliseconds: float) -> None:
    """Fix the unit's length. Call it with the device held exclusively."""
    write_atomically(
        host_folder() / f"reference-{fingerprint_key(fingerprint)}", repr(milliseconds)
    )
