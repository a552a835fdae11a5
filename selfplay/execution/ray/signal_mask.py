"""Ray's processes do not hear SIGTERM: Slurm sends it to every process of a step, a shell to every process of a group, and a
raylet that obeys takes all workers with it while the driver still wants to finish the shards under way.

The signal is blocked in the child between fork and exec, and what is blocked stays blocked in all that the child starts. SIGKILL
is what ends them: by the driver (own_ray.py), by the kernel when the driver dies (Ray asks for that itself). Each leads a session
of its own, by which the reaper finds what the kernel leaves (reaper.py). What a worker starts by itself must hear again: see
`let_children_hear`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

_starting = False


def _in_a_child() -> None:
    if _starting:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        os.setsid()


os.register_at_fork(after_in_child=_in_a_child)


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """Processes that are forked inside do not hear SIGTERM, nor does what they start; each leads a session.

    This process hears it as before: neither of Ray's two handlers stays. One, in Python, would end a driver at once. The other,
    in its C++ part, writes a trace, sets SIGALRM to abort the process, and calls Python's handler then: a deadline's alarm would
    end the run by SIGABRT.
    """
    global _starting
    import ray

    utils: Any = ray._private.utils
    set_handler = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda handler: None
    _starting = True
    try:
        yield
    finally:
        _starting = False
        utils.set_sigterm_handler = set_handler
        if threading.current_thread() is threading.main_thread():
            # what Python knows of is set once more, over what C++ has set
            for number in (signal.SIGTERM, signal.SIGALRM):
                if (handler := signal.getsignal(number)) is not None:
                    signal.signal(number, handler)


def let_children_hear() -> None:
    """In a worker that does not hear SIGTERM: let what it starts hear it. A reward function may end its own children so
    (`multiprocessing.Pool` does), and would wait for them for ever.

    The worker then takes the signal and does nothing about it. A program that it starts begins with the default, and so
    does a process that it forks.
    """
    if signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ()):
        return
    signal.signal(signal.SIGTERM, _nothing)
    os.register_at_fork(after_in_child=_hear)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _nothing(number: int, frame: Any) -> None:
    pass


def _hear() -> None:
    if signal.getsignal(signal.SIGTERM) is _nothing:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
