"""The texts of a column as a sequence, a chunk of Python texts at a time: a million texts are never Python objects together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.store.spool import release_pages


class TurnTexts(Sequence[str]):
    """The text of each conversation of one turn."""

    def __init__(self, turns: pa.ChunkedArray) -> None:
        self._chunks = [pc.list_flatten(chunk).field("content") for chunk in turns.chunks if len(chunk)]
        self._starts = np.cumsum([0, *map(len, self._chunks)])
        assert len(self) == len(turns), "chosen and rejected are one turn each"

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __iter__(self) -> Iterator[str]:
        for chunk in self._chunks:
            yield from chunk.to_pylist()
            release_pages()

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[str]: ...
    def __getitem__(self, row: int | slice) -> str | Sequence[str]:
        if isinstance(row, slice):
            return [self[each] for each in range(*row.indices(len(self)))]
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        text: str = self._chunks[number][row - int(self._starts[number])].as_py()
        return text
