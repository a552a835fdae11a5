"""A Ray of the driver's own: nothing of it outlives a driver that is killed, and its own death is said as what it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from selfplay.execution.ray import orphan_reaper as reaper
from tests.helpers.processes import check_gone

DRIVER = """
import sys
from pathlib import Path
from selfplay.core.pool import BackendSpec, Call
from selfplay.execution.ray.ray_cluster import RayCluster
from selfplay.config.running import ClusterConfig, RoleConfig
from selfplay.core.errors import BackendError
folder = Path(sys.argv[1])
try:
    with RayCluster(ClusterConfig(sampler=RoleConfig(replicas=2)), folder) as cluster:
        pool = cluster.pool("sampler", BackendSpec("tests.helpers.pool_backends:Counter"))
        (folder / "started").touch()
        for key, _ in pool.map("sleep", [Call(key, (0.2,)) for key in range(1000)]):
            (folder / "works").touch()
except BackendError as error:
    print(error.message, error.hint, flush=True)
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """A driver with two workers, in a process of its own; ended with the test."""
    drivers = []

    def make() -> subprocess.Popen[str]:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), *sys.path])}
        drivers.append(
            subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)], env=env, stdout=subprocess.PIPE, text=True)
        )
        return drivers[-1]

    yield make
    for driver in drivers:
        driver.kill()
        driver.communicate()


def wait_for(path: Path, driver: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert driver.poll() is None and time.monotonic() < deadline, f"the driver did not come to {path.name}"
        time.sleep(0.01)


def ignores(pid: int, number: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (mask,) = [line.split()[1] for line in lines if line.startswith("SigIgn:")]
    return bool(int(mask, 16) >> (number - 1) & 1)


# workers are just being started: they have not come to any code of ours, and some wait for a server that is gone
@pytest.mark.parametrize("moment", [0.3, 0.9, 1.5])
def test_a_driver_killed_while_its_workers_start_leaves_nothing(
    start: Callable[[], subprocess.Popen[str]], tmp_path: Path, moment: float
) -> None:
    driver = start()
    wait_for(tmp_path / "started", driver)
    time.sleep(moment)
    family = psutil.Process(driver.pid).children(recursive=True)
    names = {process.name() for process in family if process.is_running()}
    assert {"raylet", "gcs_server"} <= names
    assert any("Agent" in name for name in names), names
    driver.kill()
    driver.wait()
    check_gone(family)


@pytest.mark.parametrize("victim", ["raylet", "gcs_server"])
def test_the_death_of_ray_itself_is_said_and_ends_everything(
    start: Callable[[], subprocess.Popen[str]], tmp_path: Path, victim: str
) -> None:
    driver = start()
    wait_for(tmp_path / "works", driver)
    family = psutil.Process(driver.pid).children(recursive=True)
    (process,) = [process for process in family if process.name() == victim]
    process.kill()
    said, _ = driver.communicate(timeout=50)
    assert driver.returncode == 0, said
    assert f"Ray's {victim} (process {process.pid}) has died (SIGKILL)" in said
    assert "selfplay resume" in said
    check_gone(family)


def test_the_reaper_ends_a_session_when_its_pipe_is_closed_and_hears_no_signal() -> None:
    child = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.fork(); os.write(1, b'1'); time.sleep(60)"
    stubborn, stranger = (
        subprocess.Popen([sys.executable, "-c", child], start_new_session=True, stdout=subprocess.PIPE)
        for _ in range(2)
    )
    try:
        for process in (stubborn, stranger):
            assert process.stdout is not None
            assert process.stdout.read(2) == b"11"
        assert len(reaper.left_of({stubborn.pid})) == 2
        watcher = subprocess.Popen(
            [sys.executable, "-I", "-S", reaper.__file__, str(stubborn.pid)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        while not ignores(watcher.pid, signal.SIGTERM):  # it has begun
            assert watcher.poll() is None
            time.sleep(0.01)
        watcher.terminate()
        time.sleep(0.2)
        assert len(reaper.left_of({stubborn.pid})) == 2
        assert watcher.stdin is not None
        watcher.stdin.close()
        assert watcher.wait(timeout=20) == 0
        assert reaper.left_of({stubborn.pid}) == []
        assert len(reaper.left_of({stranger.pid})) == 2
    finally:
        for pid in reaper.left_of({stubborn.pid, stranger.pid}):
            os.kill(pid, 9)
        for process in (stubborn, stranger):
            process.communicate()
