"""The released code's rule, written anew from its description with numpy alone: nothing of selfplay is imported.

Remove pairs of zero margin and pairs of identical responses; rank the rest by z(R) - w z(|L|), R the difference of
rewards and L the difference of mean log-probs per token, z by numpy's population mean and standard deviation; keep
the first 40 % of a descending argsort, whose order of ties is an accident.

As a script: python released_rule.py TABLE.npz WEIGHT prints the rows kept, ascending.
"""

import sys

import numpy as np

KEEP = 0.4


def released_rule(table, weight):
    """Rows kept, and the value of every row (-inf for those removed). `table` has the columns of a pairs table, chosen and
    rejected beside each other (`reward`, `logp`, `num_tokens`: P x 2), and `identical` (P)."""
    explicit = table["reward"][:, 0] - table["reward"][:, 1]
    mean_logp = table["logp"] / table["num_tokens"]
    implicit = np.abs(mean_logp[:, 0] - mean_logp[:, 1])
    rows = np.flatnonzero((explicit != 0) & ~table["identical"])
    values = np.full(len(explicit), -np.inf)
    values[rows] = z(explicit[rows]) - weight * z(implicit[rows])
    best_first = rows[np.argsort(values[rows])[::-1]]
    return best_first[: round(KEEP * len(rows))], values


def z(column):
    # The description leaves the flat column open; anything constant leaves the ranking to the other column.
    return (column - np.mean(column)) / np.std(column) if np.ptp(column) > 0 else np.zeros_like(column)


if __name__ == "__main__":
    kept, _ = released_rule(np.load(sys.argv[1]), float(sys.argv[2]))
    assert not [name for name in sys.modules if name.startswith("selfplay")]
    print("\n".join(map(str, sorted(kept.tolist()))))
