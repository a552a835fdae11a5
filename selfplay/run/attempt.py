"""One attempt at a run or at a selection: its record, its logs, its heartbeat, the handling of signals, and how it ended."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfplay.core.errors import Interrupted, SelfplayError
from selfplay.core.redaction import redact
from selfplay.core.timing import collecting
from selfplay.core.versions import versions
from selfplay.execution.progress import Reporter, libraries_to
from selfplay.execution.signals import StopFlag, ended_by_stop, signals
from selfplay.store.driver_heartbeat import heartbeat
from selfplay.store.process_identity import this_process
from selfplay.store.run import Store


@dataclass
class Attempt:
    """The attempt in progress. `on_end` is called once its end is recorded (not after a stop at once), `on_close` last, whatever
    happened."""

    number: int
    folder: Path
    stop: StopFlag = field(default_factory=StopFlag)
    on_end: Callable[[], None] = lambda: None
    on_close: Callable[[], None] = lambda: None


@contextlib.contextmanager
def attempt(
    store: Store,
    document: Mapping[str, Any],
    reporter: Reporter,
    grace: float,
    given_stop: StopFlag | None,
    again: str,
) -> Iterator[Attempt]:
    """Begin an attempt, whose record holds `document`, and record how the work inside ends. The run's lock must be held.

    `given_stop` is the flag of a caller that handles the signals itself; `again` is the sentence that says how to continue.
    Raises Interrupted when the work is stopped, and SelfplayError, with a hint about the log, when it fails.
    """
    identity = {
        **this_process(),
        "run_dir": str(store.layout.root),
        "lock_inode": store.layout.lock.stat().st_ino,
        "versions": versions(),
    }
    number = store.begin_attempt({**identity, **document})
    folder = store.layout.attempt(number)
    current = Attempt(number, folder, given_stop or StopFlag())
    try:
        reporter.open_log(folder / "log.txt", folder / "events.jsonl")
        collecting(reporter.loading)
        with (
            _quiet_libraries(folder, reporter),
            heartbeat(folder),
            contextlib.nullcontext() if given_stop else signals(current.stop, grace, reporter),
        ):
            yield current
    except Interrupted as error:
        _end(store, current, reporter, "interrupted", error.message)
        raise
    except KeyboardInterrupt:
        with contextlib.suppress(SelfplayError):
            store.end_attempt(number, "interrupted", "stopped at once")
        raise Interrupted("stopped at once; committed work is kept", again, current.stop.exit_code or 130) from None
    except SelfplayError as error:
        reporter.log("".join(traceback.format_exception(error)))
        if (stopped := ended_by_stop(current.stop, error)) is not None:
            _end(store, current, reporter, "interrupted", stopped.message)
            raise stopped from error
        _end(store, current, reporter, "failed", error.message)
        error.hint = f"{error.hint}\n  -> The run is {store.layout.root}, its log {folder / 'log.txt'}.".lstrip()
        raise
    except Exception as error:
        reporter.log("".join(traceback.format_exception(error)))
        _end(store, current, reporter, "failed", f"{type(error).__name__}: {error}")
        raise SelfplayError(
            f"unexpected {type(error).__name__}: {error}", f"The traceback is in {folder / 'log.txt'}."
        ) from error
    else:
        store.end_attempt(number, "complete")
        with _quiet_libraries(folder, reporter):
            current.on_end()
    finally:
        # where the log cannot be opened, the error that ended the attempt matters more
        with contextlib.suppress(SelfplayError), _quiet_libraries(folder, reporter):
            current.on_close()


@contextlib.contextmanager
def _quiet_libraries(folder: Path, reporter: Reporter) -> Iterator[None]:
    """What libraries print goes to the attempt's log: stdout has the data of the command."""
    with libraries_to(folder / "libraries.log") as people, reporter.speaking_to(people):
        yield


def _end(store: Store, current: Attempt, reporter: Reporter, outcome: str, message: str) -> None:
    """Record how an attempt ended. Where even that cannot be written, the error that ended it matters more."""
    with contextlib.suppress(SelfplayError):
        store.end_attempt(current.number, outcome, redact(message))
        with _quiet_libraries(current.folder, reporter):
            current.on_end()
