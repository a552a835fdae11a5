"""Which kill comes where: failpoints are taken in turn, each as often as the others, and the signals go round."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.behaviour.chaos.failpoints import ANY
from tests.behaviour.chaos.harness import Kill

# What is sent, and what is sent some failpoints later.
SIGNALS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("KILL",), ()),
    (("TERM",), ()),
    (("KILL",), ()),
    (("INT",), ()),
    (("KILL",), ()),
    (("INT", "INT"), ()),
    (("TERM", "TERM"), ()),
    (("KILL",), ()),
    (("TERM",), ("KILL",)),  # as a deadline that has run out
    (("INT",), ("TERM",)),
    (("TERM",), ("INT",)),
)


@dataclass(frozen=True)
class Plan:
    """Kills of one command, whose undisturbed run reaches the failpoints `sequence`."""

    sequence: Sequence[str]
    seed: int = 0

    def _labels(self) -> list[str]:
        labels = sorted(set(self.sequence))
        random.Random(self.seed).shuffle(labels)
        return labels

    def positions(self, batch: int, count: int) -> list[int]:
        """Places in the sequence for one batch, ascending: the batches together take every label in turn."""
        labels, rng = self._labels(), random.Random(f"{self.seed} {batch}")
        wanted = [labels[(batch * count + number) % len(labels)] for number in range(count)]
        return sorted(
            rng.choice([place for place, name in enumerate(self.sequence) if name == label]) for label in wanted
        )

    def kills(self, batch: int, count: int) -> list[Kill]:
        """Kills of one batch, each for an attempt that goes on where the one before was killed; every fourth one meets the
        beginning of an attempt (which cleans up after the kill before)."""
        rng, found, before = random.Random(f"{batch} {self.seed}"), [], 0
        for number, place in enumerate(self.positions(batch, count)):
            label = self.sequence[place]
            signals, then = SIGNALS[(batch * count + number) % len(SIGNALS)]
            occurrence = max(1, self.sequence[: place + 1].count(label) - self.sequence[:before].count(label))
            if number and (batch + number) % 4 == 0:
                label, occurrence = ANY, rng.randint(1, 40)
            else:
                before = place
            found.append(Kill(label, occurrence, signals, then, rng.randint(1, 25) if then else 0))
        return found
