"""One file per operator family; importing this package registers all of them."""

import sys

from configs.registry import import_all

import_all(sys.modules[__name__])
