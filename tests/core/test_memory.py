"""Garbage is not collected while libraries are imported, and freed memory is not given back to the kernel."""

from __future__ import annotations

import gc
import platform
import subprocess
import sys

import pytest

from selfplay.core.memory import no_collections


def test_collections_go_on_as_before() -> None:
    assert gc.isenabled()
    with pytest.raises(ImportError), no_collections():
        assert not gc.isenabled()
        with no_collections():
            pass
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()


_FAULTS = """
import resource
from selfplay.core.memory import keep_freed_memory
if {kept}:
    keep_freed_memory()
for count in range(60):
    if count == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [bytes(100_000) for _ in range(200)]
    del held
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library has no mallopt")
def test_freed_memory_is_used_again() -> None:
    def faults(kept: bool) -> int:
        line = [sys.executable, "-c", _FAULTS.format(kept=kept)]
        return int(subprocess.run(line, check=True, capture_output=True, text=True).stdout)

    assert faults(kept=True) < 100 < faults(kept=False)
