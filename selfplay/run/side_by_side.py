"""Stages of a round that run side by side: each in a thread of its own, and each reads the shards of those before it as they are
made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

from selfplay.core.stages import shard_inputs
from selfplay.execution.signals import StopFlag
from selfplay.execution.together import run_together
from selfplay.run.stages.context import StageContext
from selfplay.store.shard_feed import ShardFeed


def run_side_by_side(
    context: StageContext, round_number: int, stages: Sequence[str], run_stage: Callable[[StageContext, str], None]
) -> None:
    """Run these stages of a round, none of which is committed. `run_stage` runs one of them, in its thread. Raises what the first
    stage that failed raised; no stage sends a further shard then, and those that are open are finished and kept."""
    feeds = {(round_number, name): ShardFeed(round_number, name) for name in stages}
    stop = StopFlag(context.stop)
    inside = dataclasses.replace(context, stop=stop, feeds=feeds)

    def work(name: str) -> None:
        sources = [feeds[round_number, source] for source in shard_inputs(name) if (round_number, source) in feeds]
        # a stage begins with the first shard that it can read
        if all(source.wait() for source in sources):
            run_stage(inside, name)
        else:
            stop.check()

    run_together(
        {name: partial(work, name) for name in stages},
        stop,
        lambda name: context.reporter.say(
            f"round {round_number} {name} failed; the other stages finish and keep the shards in progress"
        ),
        lambda name: feeds[round_number, name].end(),
    )
