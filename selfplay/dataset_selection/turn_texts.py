"""The texts of a column as a sequence, a chunk of Python texts at a time: a million texts are never Python objects together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.selection.arrays import Ints
from selfplay.store.spool import release_pages


class ColumnTexts(Sequence[str]):
    """The texts of a column of strings, none of them null."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._chunks = [chunk for chunk in column.chunks if len(chunk)]
        self._starts = np.cumsum([0, *map(len, self._chunks)])

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

    def codes(self) -> Ints:
        """A number for each text, equal for equal texts. Of each text only a digest of 16 bytes is kept."""
        digests = bytearray()
        for text in self:
            digests += blake2b(text.encode(), digest_size=16).digest()
        halves = np.frombuffer(bytes(digests), dtype=np.uint64).reshape(-1, 2)
        order = np.lexsort((halves[:, 1], halves[:, 0]))
        is_other = np.zeros(len(order), dtype=np.int64)
        is_other[1:] = (np.diff(halves[order], axis=0) != 0).any(axis=1)
        code = np.empty(len(order), dtype=np.int64)
        code[order] = np.cumsum(is_other)
        return code


class TurnTexts(ColumnTexts):
    """The text of each conversation of one turn."""

    def __init__(self, turns: pa.ChunkedArray) -> None:
        contents = [pc.list_flatten(chunk).field("content") for chunk in turns.chunks]
        super().__init__(pa.chunked_array(contents, pa.string()))
        assert len(self) == len(turns), "chosen and rejected are one turn each"
