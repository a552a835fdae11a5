"""The processes of the benchmark `preflight`: the checks alone, and a run with them or with what they found."""

from __future__ import annotations

import json
import pickle
import resource
import sys
import time
from pathlib import Path
from typing import Any

from selfplay import api
from selfplay.execution.progress import Reporter
from selfplay.run import driver
from selfplay.run.stages.context import StageContext


def _check(config: str, prepared: str) -> dict[str, float]:
    """Processor seconds of the checks, with the imports of libraries and `again` without; keeps what they found in a file."""
    seconds = []
    for _ in range(2):
        before = _processor()
        found, _ = api.preflight(config, run_dir=Path(prepared).with_name("never-made"), reporter=Reporter(quiet=True))
        seconds.append(_processor() - before)
    Path(prepared).write_bytes(pickle.dumps(found))
    return {"first": seconds[0], "again": seconds[1]}


def _processor() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _run(config: str, folder: str, rounds: str, prepared: str) -> dict[str, float]:
    """A run. With `prepared` what the checks found is taken from there."""
    at: list[float] = []
    start_others = StageContext.start_others

    def sampled(self: StageContext, shard: int) -> None:
        at.append(time.time())
        start_others(self, shard)

    def taken(settings: Any, search_path: Path, run_dir: Path, **_: Any) -> driver.Prepared:
        found: driver.Prepared = pickle.loads(Path(prepared).read_bytes())  # noqa: S301 - from `_check`
        return driver.Prepared(settings, found.inputs, found.plan, run_dir, search_path)

    StageContext.start_others = sampled  # type: ignore[method-assign]
    if prepared:
        driver.preflight = taken  # type: ignore[assignment]
    api.start(config, run_dir=folder, overrides=[f"rounds={rounds}"], reporter=Reporter(quiet=True))
    return {"first response at": at[0]}


if __name__ == "__main__":
    kind, *given = sys.argv[1:]
    sys.stdout.write(json.dumps(_check(*given) if kind == "check" else _run(*given)) + "\n")
