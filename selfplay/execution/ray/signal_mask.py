"""Masks SIGTERM in Ray's processes: Slurm sends it to every process of a step, a shell to every process of a group, and a raylet
that obeys it takes all workers with it while the driver still has to finish the running shards.

The signal is blocked in the child between fork and exec, and stays blocked in all that the child starts. These processes end by
SIGKILL: from the driver (local_ray.py), or from the kernel when the driver dies (Ray requests that itself). Each leads a session
of its own, by which the reaper finds what the kernel leaves (orphan_reaper.py). What a worker starts by itself must receive
SIGTERM again: see `unmask_sigterm_in_children`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from selfplay.execution.ray.private_api import without_sigterm_handler

# where a process that a thread forks writes its id, for the threads in which Ray is being started
_sessions: dict[int, int] = {}
# more than a struct sigaction of any system has
_SIGACTION_BYTES = 1024


def _in_a_child() -> None:
    sessions = _sessions.get(threading.get_ident())  # a child keeps the thread that forked it, and its identity
    if sessions is not None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        os.setsid()
        os.write(sessions, b"%d\n" % os.getpid())


os.register_at_fork(after_in_child=_in_a_child)


@contextlib.contextmanager
def mask_sigterm(sessions: int) -> Iterator[None]:
    """Processes that this thread forks inside do not receive SIGTERM, nor does what they start. Each leads a session and writes
    its id, as a line, into the file descriptor `sessions`. `forget` ends it before that is closed."""
    thread = threading.get_ident()
    _sessions[thread] = sessions
    try:
        yield
    finally:
        _sessions.pop(thread, None)


def forget(sessions: int) -> None:
    """Nothing that any thread forks from now on writes into this file descriptor."""
    for thread in [thread for thread, descriptor in _sessions.items() if descriptor == sessions]:
        del _sessions[thread]


@contextlib.contextmanager
def keep_signal_handlers() -> Iterator[None]:
    """ray.init inside, in any thread, changes no signal handler of this process: neither of Ray's two stays. The Python one would
    end a driver at once. The C++ one writes a trace, sets SIGALRM to abort the process, and then calls Python's handler: the
    alarm of a deadline would end the run by SIGABRT. Handlers that Python sets meanwhile are lost: see `set_handlers_again`."""
    libc = ctypes.CDLL(None)
    before = {number: ctypes.create_string_buffer(_SIGACTION_BYTES) for number in (signal.SIGTERM, signal.SIGALRM)}
    for number, action in before.items():
        libc.sigaction(number, None, action)
    try:
        with without_sigterm_handler():
            yield
    finally:
        # Python sets handlers in the main thread only
        for number, action in before.items():
            libc.sigaction(number, action, None)


def set_handlers_again() -> None:
    """In the main thread: set Python's handlers over those that another thread has set since (see `keep_signal_handlers`)."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGALRM):
            if (handler := signal.getsignal(number)) is not None:
                signal.signal(number, handler)


def unmask_sigterm_in_children() -> None:
    """In a worker whose SIGTERM is masked: let the processes that it starts receive it. A reward function may end its own
    children with it (`multiprocessing.Pool` does), and would wait for them for ever.

    The worker then receives the signal and ignores it. A program that it starts has the default action, and so does a process
    that it forks.
    """
    if signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ()):
        return
    signal.signal(signal.SIGTERM, _ignore)
    os.register_at_fork(after_in_child=_restore_default)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _ignore(number: int, frame: Any) -> None:
    pass


def _restore_default() -> None:
    if signal.getsignal(signal.SIGTERM) is _ignore:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
