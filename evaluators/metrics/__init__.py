"""The metrics: a file for each kind; importing this package registers all of them.

Tables have them in the order of their files.
"""

from __future__ import annotations

import sys

from configs.registry import import_all
from evaluators.metric import METRICS

__all__ = ["METRICS"]

import_all(sys.modules[__name__])
