"""Scores of the untrained network."""

from __future__ import annotations

from evaluators.metric import COUNTED, register_metric
from evaluators.subject import Subject
from evaluators.training_free import naswot, trainability


@register_metric(
    "naswot", label="NASWOT", direction="maximize", effort=COUNTED, write="{:.1f}".format
)
def naswot_score(subject: Subject) -> float:
    """Log-determinant of the activation kernel of the untrained network, see `naswot`."""
    return naswot(subject.network, subject.first_images)


@register_metric(
    "trainability",
    label="trainability",
    direction="maximize",
    effort=COUNTED,
    write="{:.3f}".format,
)
def trainability_score(subject: Subject) -> float:
    """How well blocks of the untrained network keep gradients alive, see `trainability`."""
    return trainability(subject.network, subject.first_images)
