"""The worker's side of a Ray actor: creates its backend and runs calls on it. Imported in the actor's process only."""

from __future__ import annotations

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
    """Holds one backend object. `env`: environment variables, set before the backend's libraries are imported. Output of
    libraries goes to `log_path`, this worker's own file. `heartbeat_path` is touched while a call makes progress; the driver
    kills a worker after `heartbeat_timeout` seconds without (0: never)."""

    def __init__(
        self,
        spec: BackendSpec,
        env: dict[str, str],
        log_path: str,
        heartbeat_path: str = "",
        heartbeat_timeout: float = 0.0,
    ) -> None:
        os.environ.update(env)
        # open for the life of the process; printed text may be invalid Unicode
        log = open(log_path, "a", buffering=1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        # tracebacks and prints of a user's function may hold the secrets that it calls a service with
        sys.stdout = sys.stderr = cast(TextIO, RedactingStream(log))
        if not spec.secrets:
            drop_secret_env()
        logging.basicConfig(stream=sys.stderr, level=logging.WARNING, force=True)
        unmask_sigterm_in_children()
        self._heartbeat = (
            heartbeat.HeartbeatWriter(Path(heartbeat_path), heartbeat_timeout, log) if heartbeat_timeout else None
        )
        heartbeat.set_writer(self._heartbeat)
        self._backend: Any = None
        self._failure: Exception | None = None
        self._started = collecting()
        try:
            with _translate_errors(), self._started.part("loading"):
                if spec.setup:
                    load(spec.setup)()
                self._backend = load(spec.target)(**spec.kwargs)
        except SelfplayError as error:
            # raised by ready(): raised here, Ray would wrap it in text and drop its type
            self._failure = error
        # libraries stay: the collections of a backend that lets go of a model need not walk through them
        gc.freeze()

    def ready(self) -> Timed:
        """Describes this worker (`WorkerInfo`), when the backend exists. Raises what its construction raised."""
        import ray

        if self._failure is not None:
            raise self._failure
        info = WorkerInfo(os.getpid(), ray.get_runtime_context().get_node_id(), this_device())
        return _timed(info, self._started)

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
