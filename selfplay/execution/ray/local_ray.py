"""The driver's private Ray instance on this machine. It is watched while the driver waits for workers, and it ends with the
driver, however the driver ends.

Other users of the machine reach its ports, as they reach every port on loopback. So it takes orders only with a token, which is
random and is in the environment of its processes only, and its files are in a folder that is closed to them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from selfplay.core.ctrl_c import ctrl_c_was_pressed
from selfplay.core.errors import BackendError, SelfplayError
from selfplay.core.limits import check_loopback, describe_shortages, ray_temp
from selfplay.core.terminal import note
from selfplay.execution.ray.private_api import (
    LOOPBACK,
    LocalNode,
    allow_loopback,
    bare_node,
    job_without_working_directory,
    read_environment,
)
from selfplay.execution.ray.signal_mask import forget, keep_signal_handlers, mask_sigterm, set_handlers_again

# no worker can run without these; if another of Ray's processes dies, the next start of a worker reports it
ESSENTIAL = ("gcs_server", "raylet")
# Ray starts within two seconds on a quiet machine. It waits much longer by itself, and hears no Ctrl-C then.
START_SECONDS = 28.0
# a machine with more to do than its CPUs can takes longer, so many times at most
_MOST_TIMES = 5.0
# a start that is given up is waited for so long
_GIVE_UP_SECONDS = 10.0
OBJECT_STORE_BYTES = 512 << 20
_LOG_LINES, _LINE_CHARACTERS = 3, 300
# set when ray.init has ended, for each start that was given up before
_given_up: list[threading.Event] = []


def is_starting() -> bool:
    """Whether a start of Ray that was given up is still under way in its thread. When Python ends it may crash there (SIGSEGV):
    a process that ends now leaves with os._exit."""
    return not all(done.is_set() for done in _given_up)


class LocalRay:
    """`start` it instead of ray.init, and `end` it. What is done between `begin` and `start` is done while Ray starts. `on_start`
    is called when Ray has started, on Ray's own thread."""

    def __init__(self, on_start: Callable[[], None] = lambda: None) -> None:
        self._on_start = on_start
        self._before: dict[str, str | None] = {}
        self._failure: BaseException | None = None
        self._state: Literal["new", "begun", "started", "ended"] = "new"

    def begin(self) -> None:
        """Begin to start Ray, without waiting. Raises ResourceError where this machine lacks what it needs, BackendError where no
        process or thread can be started."""
        check_loopback()
        self._folder = Path(tempfile.mkdtemp(prefix="selfplay-", dir=ray_temp()))
        try:
            self._reaper = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(__file__).with_name("orphan_reaper.py")), str(self._folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            self._folder.rmdir()
            raise _failed(error) from error
        self._state = "begun"
        self._done, self._ended = threading.Event(), threading.Event()
        try:
            self._set_environment()
            threading.Thread(target=self._init, name="selfplay-ray", daemon=True).start()
        except BaseException as error:
            self._clean_up()
            if isinstance(error, RuntimeError):  # no thread can be started
                raise _failed(error) from error
            raise

    def start(self) -> None:
        """Start Ray. Raises ResourceError where this machine lacks what it needs, BackendError where it does not start, and what
        `on_start` raised."""
        if self._state != "begun":
            self.begin()
        try:
            self._wait()
            set_handlers_again()
            self._node = LocalNode()
            self._started = self._node.processes()
        except BaseException:
            self._clean_up()
            raise
        self._state = "started"

    def _set_environment(self) -> None:
        """Set what Ray and the libraries of its workers read from the environment; `end` restores it."""
        values = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_AUTH_TOKEN_PATH": None,
            # a server beyond this machine that would hold what the workers execute
            "RAY_REDIS_ADDRESS": None,
            # Ray would start a worker for each core before any is needed
            "RAY_prestart_worker_first_driver": "0",
            # torch.distributed inside an engine would listen at the machine's outward address, without authentication
            "VLLM_HOST_IP": "127.0.0.1",
            "GLOO_SOCKET_IFNAME": "lo",
            # for the sockets between the processes of an engine, whose names are as limited as those of Ray's
            "VLLM_RPC_BASE_PATH": str(self._folder),
        }
        self._before = {name: os.environ.get(name) for name in values}
        _update_environment(values)
        read_environment()

    def wait(self, seconds: float) -> None:
        """Wait at most this long until the start has ended or failed."""
        if self._state == "begun":
            self._done.wait(seconds)

    def _wait(self) -> None:
        """Wait until ray.init has ended in its thread, with a limit of time and with signals that are heard meanwhile. The thread
        stays: when it ends, the kernel ends the processes that it has started."""
        begun, limit = time.monotonic(), START_SECONDS
        while not self._done.wait(timeout=0.1):
            if ctrl_c_was_pressed():
                raise KeyboardInterrupt
            if time.monotonic() < begun + limit:
                continue
            load = os.getloadavg()[0] / (os.cpu_count() or 1)
            if load > 1 and limit == START_SECONDS:
                limit *= min(load, _MOST_TIMES)
                note(
                    f"Ray has not started within {START_SECONDS:g} s. The machine is busy ({load:.1f} processes for each CPU): "
                    f"waiting up to {limit:.0f} s"
                )
                continue
            raise BackendError(
                f"Ray did not start within {limit:.3g} s{self._log_tail()}{describe_shortages()}",
                "`selfplay doctor` checks what Ray needs. If the machine is only busy, try again later.",
            )
        if isinstance(self._failure, SelfplayError):
            raise self._failure
        if self._failure is not None:
            raise _failed(self._failure, self._log_tail()) from self._failure

    def _init(self) -> None:
        import ray

        assert self._reaper.stdin is not None
        try:
            allow_loopback()
            with keep_signal_handlers(), mask_sigterm(self._reaper.stdin.fileno()), bare_node():
                ray.init(
                    address="local",
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    log_to_driver=False,
                    logging_level="ERROR",
                    _temp_dir=str(self._folder / "r"),
                    job_config=job_without_working_directory(),
                    **LOOPBACK,
                )
            self._on_start()
        except BaseException as error:  # raised in the thread that waits
            self._failure = error
        self._done.set()
        self._ended.wait()

    def _log_tail(self) -> str:
        """The last lines of what Ray's own processes wrote: the folder of their logs does not outlive them."""
        lines = []
        for kind in ESSENTIAL:
            for path in sorted(self._folder.glob(f"r/session_2*/logs/{kind}.*")):
                text = path.read_text(encoding="utf-8", errors="replace")
                lines += [f"{path.name}: {line[:_LINE_CHARACTERS]}" for line in text.splitlines()[-_LOG_LINES:]]
        return ("\n  the last lines of its logs:\n    " + "\n    ".join(lines)) if lines else ""

    def check(self) -> None:
        """Raise BackendError if Ray itself has died: its workers are gone, or will be, and no new one can start."""
        for pid, (kind, process) in self._started.items():
            code = process.poll() if kind in ESSENTIAL else None
            if code is not None:
                how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                raise BackendError(
                    f"Ray's {kind} (process {pid}) has died ({how}), and the workers with it"
                    f"{self._log_tail()}{describe_shortages()}",
                    "Committed work is safe. The usual reason is a lack of memory; `ray stop` is another. Fix the cause, then "
                    "`selfplay resume`.",
                )

    def end(self, *, at_once: bool = False) -> None:
        """`ray.shutdown` with SIGKILL: Ray would first send SIGTERM, which its processes do not receive, and wait a second for
        each. What they started ends with them. A start that was begun and is not wanted is waited for first, so that this process
        can start another Ray, unless it is to end `at_once`. Does nothing where nothing was begun, or all has ended."""
        if self._state not in ("begun", "started"):
            return
        try:
            self.wait(0 if at_once else _GIVE_UP_SECONDS)
        finally:
            self._clean_up()

    def _clean_up(self) -> None:
        """End what is left, delete the folder, and restore the environment."""
        self._state = "ended"
        try:
            if self._done.is_set():
                _shut_down()
            else:  # the import of Ray itself may have been interrupted
                _given_up.append(self._done)
        finally:
            self._end_processes()

    def _end_processes(self) -> None:
        self._ended.set()
        assert self._reaper.stdin is not None
        forget(self._reaper.stdin.fileno())
        self._reaper.stdin.close()
        # it has its own deadline, and continues without us
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._reaper.wait(timeout=5)
        _update_environment(self._before)
        if self._done.is_set():  # else a ray.init that hangs still reads them
            read_environment()


def _shut_down() -> None:
    import ray

    if ray.is_initialized():
        LocalNode().kill_at_shutdown()
        ray.shutdown()


def _failed(error: BaseException, log: str = "") -> BackendError:
    return BackendError(
        f"could not start Ray here: {error}{log}{describe_shortages()}", "`selfplay doctor` checks what Ray needs."
    )


def _update_environment(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
