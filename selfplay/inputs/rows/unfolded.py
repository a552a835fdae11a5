"""Text of a size that is known before it is kept: bounded lines, and a bounded content of compressed files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from selfplay.store.unfolding import MemoryBudget, UnfoldingError

# a row with hundreds of long responses has a few megabytes
MAX_LINE = 64 << 20
MAX_DOCUMENT = 2 << 30
UNFOLDS = (
    "If you know that the file is as it should be, unpack it, write JSON as one object a line, or split it into several files or "
    "row groups of fewer rows."
)


class Unfolded(io.RawIOBase):
    """The content of a compressed stream. Reading more than the budget allows raises UnfoldingError."""

    def __init__(self, stream: Any, budget: MemoryBudget) -> None:
        self._stream, self._budget = stream, budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count: int = self._stream.readinto(buffer)
        self._budget.charge(count)
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


def bounded_lines(file: Any) -> Iterator[Any]:
    """The lines of a text or of bytes. Raises UnfoldingError for one that is longer than MAX_LINE."""
    while line := file.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            raise UnfoldingError(f"it has a line of more than {MAX_LINE >> 20} MB: no row of a dataset is that long")
        yield line
