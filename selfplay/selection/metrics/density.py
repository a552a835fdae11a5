"""Density: a sample without replacement in which pairs from thin regions of the embedding space are likelier.

Source: inverse propensity sampling of Sachdeva et al., 2024 (arXiv 2402.09668), which estimates the density with a
hashed sketch of a Gaussian kernel. Here the kernel sums are exact up to `EXACT_UP_TO` pairs, and above that an
unbiased estimate from anchors. Departure: the draw is by keys (Efraimidis and Spirakis, 2006): with a uniform u from
the pair's hash, the pairs of largest u ** (1 / weight), weight = 1 / density, are a sample without replacement, each
next pair drawn with probability proportional to its weight. So the sample of k is the first k of one ranking, and
neither row order nor shards matter.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from selfplay.core.errors import ConfigError
from selfplay.selection.arrays import Floats
from selfplay.selection.hashing import uniform
from selfplay.selection.metrics.table import rule

EXACT_UP_TO = 100_000
NUM_ANCHORS = 4096
_NUM_FOR_BANDWIDTH = 1000
# Kernel values held at a time.
_BLOCK = 1 << 22


@rule(
    "log(u) * kernel density of embedding, u = hash(seed, pair_id): a sample with probability inverse to density",
    "thin regions are likelier to be kept",
    "density sampling, Sachdeva et al., 2024 (arXiv 2402.09668)",
)
def density(
    pair_id: Sequence[str], embedding: NDArray[np.float32], seed: int, notes: list[str], bandwidth: float = 0.0
) -> Floats:
    """log(u) * density, the logarithm of the key u ** density: the largest are a sample with probability inverse to
    the kernel density, the mean of exp(-|x - y|^2 / (2 bandwidth^2)) over the pairs y (x itself included).

    `embedding` is P x D. `bandwidth` 0 stands for the median distance of 1,000 pairs drawn by hash, which a note says.
    """
    if bandwidth < 0.0:
        raise ConfigError(f"option 'bandwidth' of metric 'density' is {bandwidth:g}", "Give a distance above 0, or 0.")
    if embedding.ndim != 2:
        raise ConfigError(
            f"the column 'embedding' is an array of shape {embedding.shape}", "It needs one vector of D numbers a pair."
        )
    value_P = np.full(len(pair_id), np.nan)
    usable = np.flatnonzero(np.isfinite(embedding).all(axis=1))
    if not len(usable):
        return value_P
    # An order of the pairs' own: sums and draws below are then the same for any order of rows.
    uniform_P = uniform((pair_id[row] for row in usable.tolist()), seed)
    order = np.argsort(uniform_P)
    rows, uniform_P = usable[order], uniform_P[order]
    points_PD = np.ascontiguousarray(embedding[rows], dtype=np.float32)
    points_PD = points_PD - points_PD.mean(axis=0, dtype=np.float64).astype(np.float32)
    width = bandwidth or median_distance(points_PD[:_NUM_FOR_BANDWIDTH])
    chosen = (
        ""
        if bandwidth
        else ", the median distance of its pairs"
        + (f" (of {_NUM_FOR_BANDWIDTH:,} of them)" if len(rows) > _NUM_FOR_BANDWIDTH else "")
    )
    said = f"density: Gaussian kernel of bandwidth {width:.4g}{chosen}"
    if len(rows) <= EXACT_UP_TO:
        density_P = kernel_sums(points_PD, points_PD, width) / len(rows)
        notes.append(f"{said}; exact.")
    else:
        density_P = _from_anchors(points_PD, width)
        notes.append(
            f"{said}; approximate, from {NUM_ANCHORS:,} anchors, since there are more than {EXACT_UP_TO:,} pairs."
        )
    value_P[rows] = np.log(uniform_P) * density_P
    return value_P


def median_distance(points_ND: NDArray[np.float32]) -> float:
    """Median Euclidean distance of the pairs of points that differ; 1 where none do."""
    squared = np.concatenate(
        [_squared(points_ND[i : i + 1], points_ND[i + 1 :])[0] for i in range(len(points_ND) - 1)] or [[]]
    )
    # What is left of |x|^2 + |y|^2 - 2 x y for equal points is rounding.
    apart = squared[squared > 1e-6 * squared.max(initial=0.0)]
    return float(np.sqrt(np.median(apart))) if len(apart) else 1.0


def kernel_sums(points_PD: NDArray[np.float32], others_AD: NDArray[np.float32], width: float) -> Floats:
    """Sum over `others` of exp(-|x - y|^2 / (2 width^2)) for every point x."""
    step = max(1, _BLOCK // max(1, len(others_AD)))
    sums_P = np.empty(len(points_PD))
    for start in range(0, len(points_PD), step):
        exponents = _squared(points_PD[start : start + step], others_AD)
        exponents *= np.float32(-0.5 / width**2)
        sums_P[start : start + step] = np.exp(exponents, out=exponents).sum(axis=1, dtype=np.float64)
    return sums_P


def _from_anchors(points_PD: NDArray[np.float32], width: float) -> Floats:
    """Density estimated from the first rows, a uniform sample: 1/P for the point itself, and the mean over the other
    anchors in place of the mean over the other points."""
    num = len(points_PD)
    sums_P = kernel_sums(points_PD, points_PD[:NUM_ANCHORS], width)
    others_P = np.full(num, float(NUM_ANCHORS))
    sums_P[:NUM_ANCHORS] -= 1.0
    others_P[:NUM_ANCHORS] -= 1.0
    density_P: Floats = (1.0 + (num - 1) * sums_P / others_P) / num
    return density_P


def _squared(points_MD: NDArray[np.float32], others_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """Squared distances, M x N, not below 0."""
    squared: NDArray[np.float32] = points_MD @ others_ND.T
    squared *= np.float32(-2.0)
    squared += np.einsum("md,md->m", points_MD, points_MD)[:, None]
    squared += np.einsum("nd,nd->n", others_ND, others_ND)
    np.maximum(squared, np.float32(0.0), out=squared)
    return squared
