"""The worker's side of a Ray actor: creates its backend and runs calls on it. Imported in the actor's process only."""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import queue
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, cast

from selfplay.core import heartbeat
from selfplay.core.errors import BackendError, SelfplayError
from selfplay.core.machine import DeviceFacts, this_device
from selfplay.core.memory import keep_freed_memory, no_collections
from selfplay.core.pool import BackendSpec
from selfplay.core.redaction import RedactingStream, drop_secret_env, text_of
from selfplay.core.timing import Record, Timed, collecting
from selfplay.execution.ray.signal_mask import unmask_sigterm_in_children


def load(target: str) -> Any:
    """The object that "module:name" names."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """The process id of a worker, Ray's id of its node, and what it found there."""

    pid: int
    node_id: str
    device: DeviceFacts


class Worker:
    """Holds one backend object, once `build` has made it. `env`: environment variables, set before any library of the backend is
    imported. `secrets`: see `BackendSpec`."""

    def __init__(self, env: dict[str, str], secrets: bool) -> None:
        os.environ.update(env)
        if not secrets:
            drop_secret_env()
        unmask_sigterm_in_children()
        keep_freed_memory()
        self._backend: Any = None
        self._heartbeat: heartbeat.HeartbeatWriter | None = None
        self._started = Record()
        # calls of a backend that serves several at a time have threads of their own: two must not import the same libraries
        self._loading = threading.Lock()

    def prepare(self, preload: str) -> None:
        """Call "module:function", which imports what the backend will need. What is wrong there is raised by `build`, which does
        it again: nobody waits for this call."""
        with self._loading, self._started.part("loading"), no_collections(), contextlib.suppress(Exception):
            load(preload)()

    def build(self, spec: BackendSpec, log_path: str, heartbeat_path: str, heartbeat_timeout: float) -> Timed:
        """Make the backend. Describes this worker (`WorkerInfo`). Output of libraries goes to `log_path`, this worker's own file.
        `heartbeat_path` is touched while a call makes progress; the driver kills a worker after `heartbeat_timeout` seconds
        without (0: never)."""
        import ray

        # open for the life of the process; printed text may be invalid Unicode
        log = open(log_path, "a", buffering=1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        # tracebacks and prints of a user's function may hold the secrets that it calls a service with
        sys.stdout = sys.stderr = cast(TextIO, RedactingStream(log))
        logging.basicConfig(stream=sys.stderr, level=logging.WARNING, force=True)
        if heartbeat_timeout:
            self._heartbeat = heartbeat.HeartbeatWriter(Path(heartbeat_path), heartbeat_timeout, log)
        heartbeat.set_writer(self._heartbeat)
        record = collecting()
        with _translate_errors(), record.part("loading"), self._loading, no_collections():
            if spec.setup:
                load(spec.setup)()
            self._backend = load(spec.target)(**spec.kwargs)
        # libraries stay: the collections of a backend that lets go of a model need not walk through them
        gc.freeze()
        info = WorkerInfo(os.getpid(), ray.get_runtime_context().get_node_id(), this_device())
        return Timed(info, (*self._started.spans(), *record.spans()))

    def ping(self) -> None:
        """Answers where the worker lives."""

    def _calling(self) -> AbstractContextManager[None]:
        return self._heartbeat.call() if self._heartbeat is not None else nullcontext()

    def call(self, method: str, args: tuple[Any, ...]) -> Timed:
        """One call on the backend."""
        record = collecting()
        with self._calling(), _translate_errors(), record.part("computing"):
            value = getattr(self._backend, method)(*args)
        return _timed(value, record)

    def stream(self, method: str, args: tuple[Any, ...]) -> Iterator[Any]:
        """A call with a progress callback: yields what the callback is called with at once, and the result last (`Timed`)."""
        events: queue.Queue[tuple[str, Any]] = queue.Queue()

        def work() -> None:
            record = collecting()
            try:
                with self._calling(), _translate_errors(), record.part("computing"):
                    result = getattr(self._backend, method)(*args, lambda item: events.put(("item", item)))
                events.put(("result", _timed(result, record)))
            except BaseException as error:  # raised on the caller's side
                events.put(("error", error))

        threading.Thread(target=work, daemon=True).start()
        while True:
            kind, value = events.get()
            if kind == "error":
                raise value
            yield value
            if kind == "result":
                return


def _timed(value: Any, record: Record) -> Timed:
    return Timed(value, tuple(record.spans()))


class _translate_errors:
    """Errors of libraries cross the process boundary as BackendError with their last line; the traceback is logged."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, value: BaseException | None, trace: Any) -> None:
        # an exit ends the process; Ray would report any other BaseException as a cancelled task
        if value is None or isinstance(value, (SelfplayError, SystemExit)):
            return
        traceback.print_exception(value)
        raise BackendError(f"{type(value).__name__}: {text_of(value)}") from None
