"""A process that has imported everything once and holds no lock and no second thread: each `selfplay` command that is to be
killed is forked from it, which takes milliseconds instead of seconds.

Reads one request a line (JSON) from stdin, forks, waits, and answers with how the child ended. Run as a module.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

# no library may start a thread: a fork copies only the one that forks
SINGLE = {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
    "JE_ARROW_MALLOC_CONF": "background_thread:false", "ARROW_DEFAULT_MEMORY_POOL": "system", "COLUMNS": "200",
}  # fmt: skip
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main() -> None:
    os.environ.update(SINGLE)
    world = Path(sys.argv[1])
    _import_everything(world)
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        tasks = list(Path("/proc/self/task").iterdir())
        assert len(tasks) == 1, f"forked from a process of {len(tasks)} threads"
        print(json.dumps(_serve(json.loads(line))), flush=True)


def _import_everything(world: Path) -> None:
    """What commands import: all of the program but the backends, what it imports on first use, and what a preflight loads."""
    import pyarrow as pa
    import pytest
    import scipy.stats  # noqa: F401

    import selfplay
    from selfplay.cli.main import make_app
    from selfplay.config.load import load_config
    from selfplay.run import driver
    from tests.behaviour.chaos import chaos_workers  # noqa: F401
    from tests.helpers.preflights import check_models_once, try_no_templates

    for module in pkgutil.walk_packages(selfplay.__path__, "selfplay."):
        if not module.name.startswith(
            ("selfplay.__main__", "selfplay.backends.", "selfplay.execution.ray", "selfplay.quickstart.")
        ):
            importlib.import_module(module.name)
    patch = pytest.MonkeyPatch()
    check_models_once(patch)
    try_no_templates(patch)
    make_app()
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    driver.preflight(load_config(world / "config.yaml"), world, world / "never-made")
    driver.versions()


def _serve(request: dict[str, Any]) -> dict[str, Any]:
    started = time.monotonic()
    # a signal that comes before the command has begun is received when it begins
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    child = os.fork()
    if child == 0:
        _child(request)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    deadline = started + request.get("timeout", 300)
    for shot in request.get("shots", ()):  # at random times, from outside
        if not _ended(child, started + shot["after"] - time.monotonic()):
            os.kill(child, signal.Signals[f"SIG{shot['signal']}"])
    timed_out = not _ended(child, deadline - time.monotonic())
    if timed_out:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {"code": status, "timed_out": timed_out, "seconds": time.monotonic() - started}


def _ended(child: int, seconds: float) -> bool:
    descriptor = os.pidfd_open(child)
    try:
        return bool(select.select([descriptor], [], [], max(seconds, 0))[0])
    finally:
        os.close(descriptor)


def _child(request: dict[str, Any]) -> None:
    """One command as the console script runs it. Does not return."""
    code = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        os.chdir(request["root"])
        code = _command(request)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _command(request: dict[str, Any]) -> int:
    from selfplay.cli.main import main as selfplay
    from selfplay.dataset_selection import pipeline
    from selfplay.run import driver
    from tests.behaviour.chaos.chaos_workers import ChaosPools, ChaosWorkers
    from tests.behaviour.chaos.failpoints import Failpoints

    points = Failpoints(request["root"], request["notes"], request.get("kill"))
    driver.early_ray_workers = lambda config: contextlib.nullcontext(ChaosWorkers(points))  # type: ignore[assignment]
    pipeline.run = functools.partial(pipeline.run, workers=ChaosPools(points))
    if request.get("sabotage"):
        _write_in_place()
    sys.argv = ["selfplay", *request["arguments"]]
    points.install()
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        selfplay()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        # as Python itself ends: by the signal
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    return 0


def _write_in_place() -> None:
    """A store that does without temporary files, to see that the harness catches it."""
    from selfplay.store import durable

    def write_file(path: Path, data: bytes) -> None:
        with durable.operations.create(path) as file:
            durable.operations.write(file, data)

    durable.write_file = write_file


if __name__ == "__main__":
    main()
