"""A Ray of the driver's own: nothing of it outlives a driver that is killed, and its own death is said as what it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from selfplay.cli.main import main
from selfplay.core import ctrl_c, limits
from selfplay.core.errors import BackendError
from selfplay.execution.ray import local_ray
from selfplay.execution.ray import orphan_reaper as reaper
from selfplay.execution.ray.local_ray import LocalRay
from tests.helpers.processes import check_gone

pytestmark = pytest.mark.slow

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
        (folder / "private").write_text(cluster._own._node._node.temp_dir)
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
    deadline = time.monotonic() + 300
    while not path.exists():
        assert driver.poll() is None and time.monotonic() < deadline, f"the driver did not come to {path.name}"
        time.sleep(0.01)


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ignores(pid: int, number: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (mask,) = [line.split()[1] for line in lines if line.startswith("SigIgn:")]
    return bool(int(mask, 16) >> (number - 1) & 1)


# workers are just being started: they have not come to any code of ours, and some wait for a server that is gone
@pytest.mark.parametrize(
    "moment", [0.9, *(pytest.param(moment, marks=pytest.mark.chaos) for moment in (0.1, 0.3, 1.5, 2.5))]
)
def test_a_driver_killed_while_its_workers_start_leaves_nothing(
    start: Callable[[], subprocess.Popen[str]], tmp_path: Path, moment: float
) -> None:
    driver = start()
    wait_for(tmp_path / "started", driver)
    time.sleep(moment)
    family = psutil.Process(driver.pid).children(recursive=True)
    names = {process.name() for process in family if process.is_running()}
    assert {"raylet", "gcs_server"} <= names
    # in the place of Ray's agents, which would import Ray and listen at ports of their own
    scripts = [Path(word).name for process in family for word in process.cmdline()]
    assert scripts.count("idle_agent.py") == 2
    assert not any("Agent" in name for name in names), names
    private = Path((tmp_path / "private").read_text()).parent
    assert private.stat().st_mode & 0o777 == 0o700
    driver.kill()
    driver.wait()
    check_gone(family)
    wait_until(lambda: not private.exists())


@pytest.mark.parametrize("victim", ["raylet", "gcs_server"])
def test_the_death_of_ray_itself_is_said_and_ends_everything(
    start: Callable[[], subprocess.Popen[str]], tmp_path: Path, victim: str
) -> None:
    driver = start()
    wait_for(tmp_path / "works", driver)
    family = psutil.Process(driver.pid).children(recursive=True)
    (process,) = [process for process in family if process.name() == victim]
    process.kill()
    said, _ = driver.communicate(timeout=200)
    assert driver.returncode == 0, said
    assert f"Ray's {victim} (process {process.pid}) has died (SIGKILL)" in said
    # they are deleted with its folder
    assert "the last lines of its logs" in said
    assert "selfplay resume" in said
    check_gone(family)


def test_the_reaper_ends_a_session_when_its_pipe_is_closed_and_hears_no_signal(tmp_path: Path) -> None:
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
        folder = tmp_path / "private"
        (folder / "logs").mkdir(parents=True)
        watcher = subprocess.Popen(
            [sys.executable, "-I", "-S", reaper.__file__, str(folder)], stdin=subprocess.PIPE, start_new_session=True
        )
        assert watcher.stdin is not None
        watcher.stdin.write(b"%d\n" % stubborn.pid)
        watcher.stdin.flush()
        while not ignores(watcher.pid, signal.SIGTERM):  # it has begun
            assert watcher.poll() is None
            time.sleep(0.01)
        watcher.terminate()
        time.sleep(0.2)
        assert len(reaper.left_of({stubborn.pid})) == 2
        watcher.stdin.close()
        assert watcher.wait(timeout=60) == 0
        assert not folder.exists()
        assert reaper.left_of({stubborn.pid}) == []
        assert len(reaper.left_of({stranger.pid})) == 2
    finally:
        for pid in reaper.left_of({stubborn.pid, stranger.pid}):
            os.kill(pid, 9)
        for process in (stubborn, stranger):
            process.communicate()


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing of Ray's starts; its private folder is made in the folder that is returned."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(limits, "LONGEST_TEMP", 1000)
    return tmp_path


def test_a_start_that_hangs_is_said_and_leaves_nothing(no_ray: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(ray, "init", lambda **_: released.wait(20))
    monkeypatch.setattr(local_ray, "START_SECONDS", 0.3)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    before = dict(os.environ)
    with pytest.raises(BackendError, match=r"did not start within 0\.3 s") as late:
        LocalRay().start()
    released.set()
    assert "selfplay doctor" in late.value.hint
    assert {**before, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"} == dict(os.environ)
    assert list(no_ray.iterdir()) == []


def test_a_start_on_a_busy_machine_may_take_longer(
    no_ray: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    released = threading.Event()
    monkeypatch.setattr(ray, "init", lambda **_: released.wait(20))
    monkeypatch.setattr(local_ray, "START_SECONDS", 0.2)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (6.0, 0.0, 0.0))
    with pytest.raises(BackendError, match=r"did not start within 0\.6 s"):
        LocalRay().start()
    released.set()
    said = "Ray has not started within 0.2 s. The machine is busy (3.0 processes for each CPU)"
    assert capsys.readouterr().err.count(said) == 1
    assert list(no_ray.iterdir()) == []


def test_ctrl_c_ends_a_start_that_hangs(no_ray: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang(**_: Any) -> None:
        threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        released.wait(20)

    monkeypatch.setattr(ray, "init", hang)
    # a shell that starts the tests in the background lets them ignore it
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            LocalRay().start()
    finally:
        signal.signal(signal.SIGINT, before)
    released.set()
    assert list(no_ray.iterdir()) == []


def test_a_ctrl_c_that_was_lost_ends_a_start_that_hangs(no_ray: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(ray, "init", lambda **_: released.wait(20))
    monkeypatch.setattr(ctrl_c, "_presses", 1)
    with pytest.raises(KeyboardInterrupt):
        LocalRay().start()
    released.set()
    assert list(no_ray.iterdir()) == []


def test_a_start_that_fails_says_why_and_what_is_short(no_ray: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: Any) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.setattr(limits, "SHARED_BYTES", 1 << 60)
    with pytest.raises(BackendError, match="could not start Ray here: out of luck") as failed:
        LocalRay().start()
    assert "shared memory: /dev/shm has" in failed.value.message
    assert list(no_ray.iterdir()) == []


def test_variables_of_another_ray_do_not_lead_elsewhere(no_ray: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's token, mode and Redis server are those of a cluster that is joined at another time."""
    others = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "theirs", "RAY_REDIS_ADDRESS": "10.9.8.7:6379"}
    for name, value in others.items():
        monkeypatch.setenv(name, value)
    seen: dict[str, str] = {}

    def fail(**_: Any) -> None:
        seen.update(os.environ)
        raise RuntimeError("far enough")

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(BackendError):
        LocalRay().start()
    assert seen["RAY_AUTH_MODE"] == "token"
    assert len(seen["RAY_AUTH_TOKEN"]) == 64
    assert "RAY_REDIS_ADDRESS" not in seen
    assert {name: os.environ[name] for name in others} == others


def test_a_command_that_gave_up_a_start_does_not_end_python(
    no_ray: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python's end could crash in the thread that still starts Ray."""
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    monkeypatch.setattr(sys, "argv", ["selfplay", "status", str(no_ray / "missing")])
    with pytest.raises(SystemExit):
        main()
    assert left == []
    begun, released = threading.Event(), threading.Event()
    monkeypatch.setattr(ray, "init", lambda **_: [begun.set(), released.wait(20)])
    given_up = LocalRay()
    given_up.begin()
    assert begun.wait(20)
    given_up.end(at_once=True)
    with pytest.raises(SystemExit) as exit_:
        main()
    assert left == [exit_.value.code] == [2]
    released.set()
