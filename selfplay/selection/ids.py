"""Pair ids as one block of bytes: hashed and compared by the million without a Python object each.

The order of ids is that of their UTF-8 bytes, which is Python's order of the strings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from selfplay.selection.arrays import Bools, Floats, Ints

# Rows hashed at a time: their words and states stay in the processor's cache.
_CHUNK = 1 << 15
# Odd multipliers of splitmix64 (Steele et al., 2014) and its increment.
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_INCREMENT = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True, eq=False)
class Ids(Sequence[str]):
    """P strings: row i is `data[start_P[i] : start_P[i] + size_P[i]]` in UTF-8. A sequence of str to whoever reads it."""

    data: NDArray[np.uint8]
    start_P: NDArray[np.int32] | Ints
    size_P: NDArray[np.int32] | Ints

    @staticmethod
    def of(ids: Sequence[str] | Any) -> Ids:
        """From strings, or an Arrow array or column of strings (no copy of the bytes then). ValueError for a null."""
        if isinstance(ids, Ids):
            return ids
        if isinstance(ids, pa.ChunkedArray):
            ids = ids.cast(pa.large_string()).combine_chunks()  # 32-bit offsets end at 2 GB
        array = ids if isinstance(ids, pa.Array) else pa.array(ids, pa.large_string())
        if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
            raise ValueError(f"pair ids are of type {array.type}, not strings")
        if array.null_count:
            raise ValueError(f"{array.null_count} pair ids are null")
        _, offsets, data = array.buffers()
        width = np.int64 if pa.types.is_large_string(array.type) else np.int32
        if not len(array):
            return Ids(np.empty(0, dtype=np.uint8), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
        offset_P = np.frombuffer(offsets, dtype=width)[array.offset : array.offset + len(array) + 1]
        block = np.frombuffer(data, dtype=np.uint8) if data is not None and data.size else np.empty(0, dtype=np.uint8)
        return Ids(block, offset_P[:-1], np.diff(offset_P))  # type: ignore[arg-type]

    @staticmethod
    def some(ids: Sequence[str] | Any, rows: Ints) -> Ids:
        """Those of these rows, without looking at the others."""
        if isinstance(ids, Ids):
            return ids.at(rows)
        if isinstance(ids, (pa.Array, pa.ChunkedArray)):
            return Ids.of(ids.take(pa.array(rows)))
        return Ids.of([ids[row] for row in rows.tolist()])

    def __len__(self) -> int:
        return len(self.start_P)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> Ids: ...
    def __getitem__(self, row: int | slice) -> str | Ids:
        if isinstance(row, slice):
            return Ids(self.data, self.start_P[row], self.size_P[row])
        start = int(self.start_P[row])
        return bytes(self.data[start : start + int(self.size_P[row])]).decode()

    def __iter__(self) -> Iterator[str]:
        return (self[row] for row in range(len(self)))

    def at(self, rows: Ints | Bools) -> Ids:
        """The ids of these rows (positions, or a mask), in that order; the bytes are shared."""
        return Ids(self.data, self.start_P[rows], self.size_P[rows])

    def hashes(self, seed: int) -> NDArray[np.uint64]:
        """64 well-mixed bits a row from the seed and the id's bytes; neither row order nor the other rows matter.

        Eight bytes at a time go through the finaliser of splitmix64, then the length. Not for secrets.
        """
        state_P = np.empty(len(self), dtype=np.uint64)
        for start in range(0, len(self), _CHUNK):
            rows = slice(start, start + _CHUNK)
            state_P[rows] = self._hash_chunk(
                self.start_P[rows].astype(np.int64), self.size_P[rows].astype(np.int64), seed
            )
        return state_P

    def uniform(self, seed: int) -> Floats:
        """A number in (0, 1) a row from its hash: 53 bits, the open ends left out so that its logarithm is finite."""
        top_P = (self.hashes(seed) >> np.uint64(11)).astype(np.float64)
        # 2^53 - 1 + 0.5 rounds up to 2^53, so the largest of the 53-bit numbers gives way to its neighbour.
        return (np.minimum(top_P, 2.0**53 - 2) + 0.5) * 2.0**-53

    def order_in(self, block_P: Ints) -> Ints:
        """Positions that sort the rows by `block_P` (integers) and, inside a block, by id."""
        # Words read with the first byte on top compare as the bytes do. What is past the end counts as zeros; ids that
        # then agree, as "a" and "a\\0", differ in size.
        start_P, size_P = self.start_P.astype(np.int64), self.size_P.astype(np.int64)
        keys: list[NDArray[np.generic]] = [size_P]
        for done in reversed(range(0, int(size_P.max(initial=0)), 8)):
            word_P = np.zeros(len(self), dtype=np.uint64)
            for byte in range(done, done + 8):
                there = np.flatnonzero(size_P > byte)
                word_P[there] |= self.data[start_P[there] + byte].astype(np.uint64) << np.uint64(8 * (done + 7 - byte))
            keys.append(word_P)
        order_P: Ints = np.lexsort((*keys, block_P))
        return order_P

    def _hash_chunk(self, start_C: Ints, size_C: Ints, seed: int) -> NDArray[np.uint64]:
        first = int(start_C.min())
        last = int((start_C + size_C).max())
        contiguous = last - first <= 4 * int(size_C.sum()) + 1024
        if contiguous:
            block = np.zeros(last - first + 8, dtype=np.uint8)
            block[: last - first] = self.data[first:last]
            start_C = start_C - first
        else:  # rows picked from all over the table: their bytes are gathered first
            block = np.zeros(int(size_C.sum()) + 8, dtype=np.uint8)
            end_C = np.cumsum(size_C)
            begin_C = end_C - size_C
            within = np.arange(int(end_C[-1])) - np.repeat(begin_C, size_C)
            block[: int(end_C[-1])] = self.data[np.repeat(start_C, size_C) + within]
            start_C = begin_C
        # Every position of the block read as one little-endian word.
        words = np.ndarray((len(block) - 7,), dtype="<u8", buffer=block, strides=(1,))
        state_C = np.full(len(start_C), _mixed_int(seed), dtype=np.uint64)
        for done in range(0, int(size_C.max(initial=0)), 8):
            left_C = size_C - done
            position_C = np.minimum(start_C + done, len(words) - 1)
            keep_bits = np.clip(8 * left_C, 0, 64).astype(np.uint64)
            # a shift by 64 is undefined: words past the end are masked out by the where below
            mask_C = np.uint64(_MASK) >> np.minimum(np.uint64(64) - keep_bits, np.uint64(63))
            mixed_C = mixed(state_C ^ (words[position_C] & mask_C))
            state_C = np.where(left_C > 0, mixed_C, state_C)
        return mixed(state_C ^ size_C.astype(np.uint64))


def mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's step: add the increment, then two rounds of xor-shift and multiply, modulo 2^64."""
    state = state + np.uint64(_INCREMENT)
    state ^= state >> np.uint64(30)
    state *= np.uint64(_MULTIPLIERS[0])
    state ^= state >> np.uint64(27)
    state *= np.uint64(_MULTIPLIERS[1])
    state ^= state >> np.uint64(31)
    return state


def _mixed_int(seed: int) -> int:
    return int(mixed(np.array([seed & _MASK], dtype=np.uint64))[0])
