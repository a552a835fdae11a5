"""Pieces of work that run at the same time, each in a thread of its own.

The first error, or a stop that the user asks for, ends all of them: the flag that they look at is set, what is open is finished
and kept, and that error is raised. Signals stay with the main thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from selfplay.core.errors import Interrupted
from selfplay.execution.signals import StopFlag

# Seconds after which a main thread looks for signals that another thread received.
POLL = 0.2
# Seconds for the threads to finish the files that they write, after a stop at once.
LAST_WRITES = 1.0


def run_together(
    works: Mapping[str, Callable[[], None]],
    stop: StopFlag,
    on_error: Callable[[str], None],
    on_end: Callable[[str], None] = lambda name: None,
) -> None:
    """Run these pieces of work, which look at `stop`. `on_error` is called with the name of the first one that failed, `on_end`
    with the name of each that has ended, after `stop` is set if it failed. Raises what the first one that failed raised."""
    errors: list[BaseException] = []

    def run(name: str, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)
            if stop.exit_code is None:
                stop.exit_code = 1
                on_error(name)
        finally:
            on_end(name)

    # after a stop at once nothing waits for them
    threads = [threading.Thread(target=run, args=each, name=each[0], daemon=True) for each in works.items()]
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
        for name in works:
            on_end(name)
        for thread in started:
            thread.join(LAST_WRITES / len(threads))
        raise
    if errors:
        # what was stopped because of another one's error says less
        raise next((error for error in errors if not isinstance(error, Interrupted)), errors[0])
