"""The interface of stages to workers: a pool of equal workers that each hold one backend object.

The Ray pool (execution/ray/ray_pool.py) is one; tests and benchmarks have others, in their own process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from selfplay.core.machine import DeviceFacts

# A worker has one call running and one waiting, so that it is never idle between two.
IN_FLIGHT = 2
# Seconds until calls are asked for again where there was no further one yet.
PAUSE = 0.02


@dataclass(frozen=True, slots=True)
class BackendSpec:
    """How a worker makes its backend: `target` is "module:Class", called with `kwargs` in the worker's own process,
    after `setup` ("module:function", optional: it sets environment variables that an import reads). `secrets`: the backend needs
    the secrets of the environment (a user's function may call a service with them); otherwise they are removed. `concurrency`:
    how many calls the backend serves at a time, each on a thread of its own. `preload`: "module:function" that imports what the
    backend will need, for a worker that starts before its arguments are known."""

    target: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    setup: str | None = None
    secrets: bool = False
    concurrency: int = 1
    preload: str | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One unit of work: `key` is returned with its result. `max_crashes`: how many workers may die in it before `WorkerCrash`
    is returned in place of a result; None: it is repeated until the pool's own bound ends the stage."""

    key: int
    args: tuple[Any, ...]
    max_crashes: int | None = None


@dataclass(frozen=True, slots=True)
class WorkerCrash:
    """In place of a result: `num_crashes` workers died in this call (or hung and were killed), as many as were allowed.
    `reason` is the last one's; `worker` names that worker, its log and the log's last lines, in lines of their own; `hint` is a
    sentence about what usually ends a process in that way."""

    reason: str
    num_crashes: int
    worker: str = field(default="", compare=False)
    hint: str = field(default="The worker's log may show why.", compare=False)


class Pool(Protocol):
    """Workers of one role."""

    def start(self) -> None:
        """Begin to start the workers, without waiting for them."""

    def devices(self) -> list[DeviceFacts]:
        """What each worker found on its node. Waits until all workers have started."""

    def map(self, method: str, calls: Iterable[Call | None], window: int = IN_FLIGHT) -> Iterator[tuple[int, Any]]:
        """Run the calls on any worker; results (or `WorkerCrash`) in the order of completion. At most `window` calls are in
        flight at each worker. None among the calls: there is no further one yet, ask again. Closing the iterator drops the calls
        that have not begun."""

    def broadcast(self, method: str, *args: Any) -> list[Any]:
        """Run on every worker, and again on each later replacement of one. Results in the order of the workers."""

    def run_streaming(self, method: str, *args: Any, meanwhile: Callable[[], None] = lambda: None) -> Iterator[Any]:
        """Run on one worker with a `progress` callback as the last argument: yields what the callback was called with, then,
        last, the result. If the worker dies the call may be repeated once: its progress may then be yielded again.
        `meanwhile` is called about every second while there is nothing to yield."""

    def drain_events(self) -> list[str]:
        """What happened to workers since the last call: a readable line each."""


@dataclass(frozen=True)
class Workers:
    """The pools of a run. `gold` is the judge, when there is one. Rewards come from `scorer`, or from the pools of `parts` by
    name where several are combined: then `scorer` is None. `own_devices`: the roles whose workers share no device with others,
    so that they may work side by side."""

    sampler: Pool
    scorer: Pool | None
    logprobs: Pool
    trainer: Pool
    gold: Pool | None = None
    parts: Mapping[str, Pool] = field(default_factory=dict)
    own_devices: frozenset[str] = frozenset()

    def by_role(self) -> dict[str, Pool]:
        """The pools that exist, by role; the parts of a combined reward as "scorer.NAME"."""
        pools = {
            "sampler": self.sampler,
            "scorer": self.scorer,
            **{f"scorer.{name}": pool for name, pool in self.parts.items()},
            "gold": self.gold,
            "logprobs": self.logprobs,
            "trainer": self.trainer,
        }
        return {role: pool for role, pool in pools.items() if pool is not None}

    def start_first(self) -> None:
        """Start the engines, and what has devices of its own. The others would compete with an engine for the processor while
        they import: they start when the first shard is sampled."""
        for role, pool in self.by_role().items():
            if role == "sampler" or role.partition(".")[0] in self.own_devices:
                pool.start()

    def start(self) -> None:
        """Start all pools that have not started: imports of one role run while another works."""
        for pool in self.by_role().values():
            pool.start()
