"""The private parts of Ray that selfplay uses or overrides, all of them in this file.

They were tested with the versions of `core.versions.TESTED["ray"]`. Check each function here before that range is widened.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Argument of ray.init: the address that Ray's processes listen at.
LOOPBACK = {"_node_ip_address": "127.0.0.1"}


def allow_loopback() -> None:
    """Let a local Ray listen at 127.0.0.1, which it would replace by the machine's outward address. Call it before ray.init."""
    # Ray reads the variable when it is imported, on Linux too. A user's module may have imported Ray before.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray

    ray._private.ray_constants.ENABLE_RAY_CLUSTER = False


def job_without_working_directory() -> Any:
    """The job_config of ray.init for workers that import nothing from the driver's working directory. Ray would put it first on
    their import path: a file there with the name of a library would be run in its place."""
    import ray

    job: Any = ray.job_config.JobConfig()
    job._runtime_env_has_working_dir = lambda: True
    return job


@contextlib.contextmanager
def without_sigterm_handler() -> Iterator[None]:
    """Inside, ray.init does not install its Python handler of SIGTERM in this process."""
    import ray

    utils: Any = ray._private.utils
    set_handler = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = set_handler


@contextlib.contextmanager
def bare_node() -> Iterator[None]:
    """Inside, ray.init starts what workers need and no more: no dashboard (whose head process asks the metadata service of a
    cloud where it runs, also with usage statistics switched off), no autoscaler, no log monitor, and in the place of the raylet's
    agents processes that do nothing (see idle_agent.py)."""
    from ray._private import services
    from ray._private.node import Node

    node: Any = Node
    names = ("start_api_server", "start_monitor", "start_log_monitor")
    originals = {name: getattr(node, name) for name in names}
    for name in names:
        setattr(node, name, lambda self, **_: None)
    module: Any = services
    # the beginning of an agent's command, which Ray's own script and its arguments follow
    python_command = module._build_python_executable_command_memory_profileable
    agent = [sys.executable, "-I", "-S", str(Path(__file__).with_name("idle_agent.py"))]
    module._build_python_executable_command_memory_profileable = lambda *_, **__: agent
    try:
        yield
    finally:
        module._build_python_executable_command_memory_profileable = python_command
        for name, original in originals.items():
            setattr(node, name, original)


def read_environment() -> None:
    """Let Ray read its variables (the token among them) from the environment again: it does so when it is imported, and keeps
    them. No Ray may be running in this process."""
    import ray._raylet

    native: Any = ray._raylet
    native.Config.initialize("")
    native.AuthenticationTokenLoader.instance().reset_cache()


class LocalNode:
    """The node that ray.init has started in this process."""

    def __init__(self) -> None:
        import ray

        self._node: Any = ray._private.worker._global_node

    def processes(self) -> dict[int, tuple[str, subprocess.Popen[bytes]]]:
        """(kind, process) by process id; kinds are "raylet", "gcs_server" and others."""
        return {
            info.process.pid: (kind, info.process) for kind, infos in self._node.all_processes.items() for info in infos
        }

    def kill_at_shutdown(self) -> None:
        """Make ray.shutdown kill the node's processes with SIGKILL, without SIGTERM and a wait before."""
        kill_all = self._node.kill_all_processes
        self._node.kill_all_processes = lambda **_: kill_all(check_alive=False, allow_graceful=False)


def death_reason(error: Exception) -> str:
    """What Ray reports about a worker's death, in one line, from the text of its exception. About a process that is suddenly gone
    Ray knows nothing more."""
    text = str(error).strip() or type(error).__name__
    detail = text.partition("Worker exit detail: ")[2]
    known = [] if "connection error" in detail else detail.splitlines()[:1]
    return " ".join([text.splitlines()[0], *known])
