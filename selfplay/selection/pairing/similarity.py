"""Similarity of two texts: the share of byte 4-grams that they have in common (Jaccard index).

The text in UTF-8 gets three zero bytes before and after it, so that beginnings and ends count and no text is too short. The
4-grams of each text are a set: repeating a passage changes nothing. 1 for equal texts, 0 for texts without a common 4-gram;
symmetric. A changed word of a long text costs about as many 4-grams as it has letters, plus three, on either side.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from selfplay.selection.arrays import Floats, Ints

Grams = NDArray[np.uint32]

_PAD = b"\0\0\0"
# Sets of grams that are kept for texts that come again; pairs of one prompt follow each other.
_CACHED = 4096


def similarity(first: str, second: str) -> float:
    """Jaccard index of two texts' sets of byte 4-grams, in [0, 1]."""
    return _jaccard(_grams(first), _grams(second))


def similarities(texts: Sequence[str], first_P: Ints, second_P: Ints) -> Floats:
    """`similarity` of P pairs of texts, given by their positions in `texts`."""
    grams = lru_cache(_CACHED)(lambda text: _grams(texts[text]))
    pairs = zip(first_P.tolist(), second_P.tolist(), strict=True)
    return np.fromiter((_jaccard(grams(one), grams(two)) for one, two in pairs), np.float64, len(first_P))


def _grams(text: str) -> Grams:
    """The text's different 4-grams, sorted. Four bytes fill an uint32: nothing collides."""
    # a lone surrogate (broken input) is a text like any other
    data = _PAD + text.encode("utf-8", "surrogatepass") + _PAD
    # every position of the bytes read as one little-endian number
    grams: Grams = np.ndarray((len(data) - 3,), dtype="<u4", buffer=data, strides=(1,))
    return np.unique(grams)


def _jaccard(first: Grams, second: Grams) -> float:
    common = len(np.intersect1d(first, second, assume_unique=True))
    return common / (len(first) + len(second) - common)
