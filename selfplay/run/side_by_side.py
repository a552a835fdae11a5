"""Stages of a round that run side by side: each in a thread of its own, and each reads the shards of those before it as they are
made.

The first error, or a stop that the user asks for, ends all of them: no stage sends a further shard, those that are open are
finished and kept, and that error is raised. Signals stay with the main thread, which only waits.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence

from selfplay.core.errors import Interrupted
from selfplay.core.stages import shard_inputs
from selfplay.execution.signals import StopFlag
from selfplay.run.stages.context import StageContext
from selfplay.store.shard_feed import ShardFeed

# Seconds after which the main thread looks for signals that another thread received.
POLL = 0.2
# Seconds for the threads to finish the files that they write, after a stop at once.
LAST_WRITES = 1.0


def run_side_by_side(
    context: StageContext, round_number: int, stages: Sequence[str], run_stage: Callable[[StageContext, str], None]
) -> None:
    """Run these stages of a round, none of which is committed. `run_stage` runs one of them, in its thread. Raises what the first
    stage that failed raised."""
    feeds = {(round_number, name): ShardFeed(round_number, name) for name in stages}
    stop = StopFlag(context.stop)
    inside = dataclasses.replace(context, stop=stop, feeds=feeds)
    errors: list[BaseException] = []

    def work(name: str) -> None:
        sources = [feeds[round_number, source] for source in shard_inputs(name) if (round_number, source) in feeds]
        try:
            # a stage begins with the first shard that it can read
            if all(source.wait() for source in sources):
                run_stage(inside, name)
            else:
                stop.check()
        except BaseException as error:
            errors.append(error)
            if stop.exit_code is None:
                stop.exit_code = 1
                context.reporter.say(
                    f"round {round_number} {name} failed; the other stages finish and keep the shards in progress"
                )
        finally:
            feeds[round_number, name].end()

    # after a stop at once nothing waits for them
    threads = [threading.Thread(target=work, args=(name,), name=name, daemon=True) for name in stages]
    started = []
    try:
        for thread in threads:
            thread.start()
            started.append(thread)
        for thread in threads:
            while thread.is_alive():
                thread.join(POLL)
    except BaseException:
        stop.at_once()
        for feed in feeds.values():
            feed.end()
        for thread in started:
            thread.join(LAST_WRITES / len(threads))
        raise
    if errors:
        # a stage that was stopped because of another one's error says less
        raise next((error for error in errors if not isinstance(error, Interrupted)), errors[0])
