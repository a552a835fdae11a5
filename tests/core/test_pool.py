"""Which workers start at once, and which with the first shard."""

from __future__ import annotations

from benchmarks.local_pool import LocalPool
from selfplay.core.pool import Workers


class _Pool(LocalPool):
    def __init__(self, name: str, started: list[str]) -> None:
        super().__init__(None)
        self._name, self._started = name, started

    def start(self) -> None:
        if self._name not in self._started:
            self._started.append(self._name)


def test_what_shares_a_device_with_the_engine_starts_after_it() -> None:
    for own, first in (
        (frozenset(), ["sampler"]),
        (frozenset({"sampler", "scorer"}), ["sampler", "scorer", "scorer.style"]),
    ):
        started: list[str] = []
        named = {name: _Pool(name, started) for name in ("sampler", "scorer", "logprobs", "trainer", "gold")}
        workers = Workers(**named, parts={"style": _Pool("scorer.style", started)}, own_devices=own)
        workers.start_first()
        assert started == first
        workers.start()
        assert sorted(started) == sorted([*named, "scorer.style"])
