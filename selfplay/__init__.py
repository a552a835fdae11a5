"""selfplay: iterative self-play data generation with selection by alignment potential.

Importing this package imports nothing heavy: a name is loaded from its module when it is first used (PEP 562). The types
of the names are in `__init__.pyi`.
"""

import importlib

from selfplay.core.version import __version__

_MODULES = {
    "start": "selfplay.api",
    "resume": "selfplay.api",
    "fork": "selfplay.api",
    "select": "selfplay.dataset_selection.api",
    "open_run": "selfplay.inspect.query.api",
}

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
