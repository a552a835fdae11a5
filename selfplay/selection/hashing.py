"""Random numbers of an id: a function of the seed and the id alone, so that neither row order nor other rows matter."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from selfplay.selection.arrays import Floats


def random_bits(ids: Iterable[str], seed: int) -> NDArray[np.uint64]:
    """64 random bits for each id: BLAKE2b of its UTF-8 bytes, keyed with the seed (modulo 2^64)."""
    keyed = hashlib.blake2b(digest_size=8, key=(seed % 2**64).to_bytes(8, "little"))

    def digest(name: str) -> bytes:
        state = keyed.copy()
        state.update(name.encode())
        return state.digest()

    return np.frombuffer(b"".join(map(digest, ids)), dtype="<u8").astype(np.uint64)


def uniform(ids: Iterable[str], seed: int) -> Floats:
    """A number in the open interval (0, 1) for each id, from 52 random bits: its logarithm is finite."""
    return ((random_bits(ids, seed) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
