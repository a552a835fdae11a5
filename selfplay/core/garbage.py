"""Garbage collection in processes that import large libraries."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def no_collections() -> Iterator[None]:
    """No garbage is collected inside. While libraries are imported there is next to none, and each collection walks through all
    that they hold already: a tenth of the time that torch, transformers and vLLM take."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
