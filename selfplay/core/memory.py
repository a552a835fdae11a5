"""Memory of processes that import large libraries and compute with them."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator

# Parameters of glibc's mallopt (malloc.h), and what they are set to, in bytes.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT = 256 << 20
# the largest that glibc takes
_FROM_HEAP = 32 << 20


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


def keep_freed_memory() -> None:
    """Have the allocator keep up to 256 MB of what is freed. Each forward pass on a CPU asks for the same sizes again. glibc
    gives them back to the kernel in between, which must clear every page anew: a fifth of the time of a small model. Does nothing
    where the C library is another."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _FROM_HEAP)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
