"""Real Ray, workers that die, hang or lose their engine: the work goes on without what killed them, or stops and says why."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest

from selfplay.config.running import ClusterConfig
from selfplay.core.errors import BackendError
from selfplay.core.pool import BackendSpec, Call, WorkerCrash
from selfplay.execution.quarantine import QUARANTINED, QuarantinePolicy, run_with_quarantine
from selfplay.execution.ray.ray_cluster import RayCluster
from selfplay.execution.ray.ray_pool import RayPool
from tests.helpers.processes import check_gone, is_alive, lines_of, workers_find_the_tests

pytestmark = pytest.mark.slow

MakePool = Callable[..., RayPool]
# seconds without a beat that a worker of these tests is given: more than a busy machine takes to come to the first
DEADLINE = 5.0
NUMBERS = [[0, 1], [4, 5]]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with workers_find_the_tests(), RayCluster(ClusterConfig(), tmp_path_factory.mktemp("logs")) as cluster:
        yield cluster


@pytest.fixture
def make_pool(cluster: RayCluster, tmp_path: Path) -> Iterator[MakePool]:
    pools: list[RayPool] = []

    def make(
        replicas: int = 1,
        retries: int = 2,
        heartbeat_timeout: float = 60.0,
        secret: str = "",
        trusted: bool = False,
        **kwargs: Any,
    ) -> RayPool:
        pool = RayPool(
            name="sampler",
            spec=BackendSpec("tests.helpers.pool_backends:Counter", kwargs, secrets=trusted),
            replicas=replicas,
            demand={},
            env={"HF_TOKEN": secret},
            log_folder=tmp_path,
            retries=retries,
            start_timeout=200.0,
            heartbeat_timeout=heartbeat_timeout,
        )
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.close()


def test_ray_starts_no_dashboard(cluster: RayCluster) -> None:
    """Its head process would ask the metadata service of a cloud, and be one more server. Nor is there an autoscaler."""
    lines = lines_of(psutil.Process().children(recursive=True))
    assert any("raylet" in line for line in lines)
    assert not [line for line in lines if "dashboard/dashboard.py" in line or "monitor.py" in line]


def squares(pool: RayPool, poison: int, how: str, say: Callable[[str], None] = print) -> dict[int, tuple[Any, Any]]:
    """Number -> square of every shard, the poisoned number given up with a null."""

    def row(number: int, reason: str) -> pa.Table:
        return pa.table({"number": [number], "square": pa.nulls(1, pa.int64())})

    quarantine: QuarantinePolicy[int] = QuarantinePolicy(str, row, 2)
    found = {}
    for index, answer in run_with_quarantine(
        pool, "square", enumerate(NUMBERS), lambda numbers: (list(numbers), poison, how), quarantine, say, "squares"
    ):
        found[index] = (answer.table.to_pydict(), answer.quarantined)
    return found


def test_a_shard_that_kills_its_worker_is_halved_until_one_item_is_given_up(
    make_pool: MakePool, tmp_path: Path
) -> None:
    said: list[str] = []
    pool = make_pool(lives=str(tmp_path / "lives"))
    found = squares(pool, 5, "die", said.append)
    for index, numbers in enumerate(NUMBERS):
        table, given_up = found[index]
        # every other row is as ever, in its place
        assert table["number"] == numbers
        assert table["square"] == [None if number == 5 else number * number for number in numbers]
        assert given_up == ([("5", QUARANTINED)] if index == 1 else [])
    # twice by the shard, twice alone; and the first
    assert len((tmp_path / "lives").read_text().split()) == 2 + 2 + 1
    assert sum("is split in two" in line for line in said) == 1
    assert any(line.startswith(f"squares: 5 is {QUARANTINED}") for line in said)
    assert sum(line.startswith("sampler worker 0 died (") for line in said) == 4


def test_a_backend_that_lost_its_engine_is_replaced_with_its_process(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(lives=str(tmp_path / "lives"))
    results = dict(pool.map("square", [Call(0, ([1], 1, "lose"), 1), Call(1, ([2], 1, "lose"), 1)]))
    assert results[0] == WorkerCrash("the engine is gone", 1)
    assert results[1].to_pydict() == {"number": [2], "square": [4]}
    first, second = map(int, (tmp_path / "lives").read_text().split())
    assert gone(first) and not gone(second, seconds=0)


def test_a_result_in_between_makes_deaths_count_anew(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(retries=1)
    (tmp_path / "no").touch()
    calls = [Call(key, (str(tmp_path / marker), key)) for key, marker in enumerate(("first", "no", "no", "second"))]
    assert dict(pool.map("die_once", calls)) == {key: (key, "nothing") for key in range(4)}
    assert len(pool.drain_events()) == 2
    assert pool.drain_events() == []


def test_workers_that_hang_are_ended_and_count_as_ones_that_died(make_pool: MakePool, tmp_path: Path) -> None:
    """One in C code that holds Python's lock, then one that is stopped."""
    pool = make_pool(heartbeat_timeout=DEADLINE, lives=str(tmp_path / "lives"))
    hows = ("", "hang_in_c", "stop_itself", "")
    results = dict(
        pool.map("square", [Call(key, ([key], key if how else 0, how), 1) for key, how in enumerate(hows, 1)])
    )
    assert results[2] == results[3] == WorkerCrash("no progress for 5 s, so it was killed", 1)
    assert results[1].to_pydict() == {"number": [1], "square": [1]}
    assert results[4].to_pydict() == {"number": [4], "square": [16]}
    *ended, last = map(int, (tmp_path / "lives").read_text().split())
    assert len(ended) == 2 and all(gone(process) for process in ended) and not gone(last, seconds=0)


def test_a_hang_that_does_not_end_names_where_it_is(make_pool: MakePool, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"died \(no progress for 5 s, so it was killed\)") as hung:
        list(make_pool(heartbeat_timeout=DEADLINE, retries=0).map("square", [Call(0, ([2], 2, "hang"))]))
    assert "its stack, innermost frame first" in hung.value.message
    assert "pool_backends.py" in hung.value.message and "in hang" in hung.value.message
    assert str(tmp_path / "sampler-0.log") in hung.value.hint


def test_a_slow_worker_with_signs_of_progress_is_left_alone(make_pool: MakePool) -> None:
    pool = make_pool(heartbeat_timeout=DEADLINE)
    assert list(pool.map("be_slow", [Call(0, (1.3 * DEADLINE,))])) == [(0, "done")]
    assert pool.drain_events() == []


def test_what_a_worker_starts_hears_sigterm(make_pool: MakePool) -> None:
    pool = make_pool(heartbeat_timeout=30.0)
    assert list(pool.map("end_children", [Call(0, (), 1)])) == [(0, [-signal.SIGTERM, -signal.SIGTERM])]


def test_how_a_worker_died_is_said_where_it_is_known(make_pool: MakePool) -> None:
    pool = make_pool()
    results = dict(pool.map("square", [Call(key, ([key], key, how), 1) for key, how in enumerate(("crash", "leave"))]))
    assert "it crashed (Segmentation fault), innermost frame first:" in results[0].worker
    assert "in crash" in results[0].worker and "crash" not in results[1].worker
    assert "exit code 3" in results[1].reason
    # ends no worker
    with pytest.raises(BackendError, match="sampler worker 0: KeyboardInterrupt: from below"):
        list(pool.map("interrupt", [Call(0, (), 1)]))
    assert len(pool.drain_events()) == 2


def test_a_stream_has_the_deadline_too(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(heartbeat_timeout=DEADLINE)
    assert list(pool.run_streaming("hang_in_stream", str(tmp_path / "stream"))) == [0, 0, "done"]
    assert ["no progress" in line for line in pool.drain_events()] == [True]


def test_a_trainer_that_dies_goes_on_once_from_what_it_kept(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool()
    assert list(pool.run_streaming("count_and_die_at", 4, 1, str(tmp_path / "kept"))) == [0, 1, 2, 3, "done from 2"]
    assert len(pool.drain_events()) == 1
    with pytest.raises(BackendError, match="the sampler died \\("):
        list(make_pool(retries=0).run_streaming("count_then_die", 1))


def test_a_worker_forgets_secrets_unless_it_runs_a_users_function_whose_prints_leave_them_out(
    make_pool: MakePool, tmp_path: Path
) -> None:
    canary = "hf_CANARYcanaryCANARY"
    assert make_pool(secret=canary).broadcast("environment", "HF_TOKEN") == [None]
    function = make_pool(secret=canary, trusted=True)
    assert function.broadcast("environment", "HF_TOKEN") == [canary]
    function.broadcast("print_environment")
    log = (tmp_path / "sampler-0.log").read_text()
    assert "'HF_TOKEN': '[HF_TOKEN]'" in log and canary not in log


DRIVER = """
import sys, time
from pathlib import Path
from selfplay.core.pool import BackendSpec, Call
from selfplay.execution.ray.ray_cluster import RayCluster
from selfplay.config.running import ClusterConfig, RoleConfig
folder = Path(sys.argv[1])
with RayCluster(ClusterConfig(sampler=RoleConfig(replicas=2)), folder) as cluster:
    pool = cluster.pool("sampler", BackendSpec("tests.helpers.pool_backends:Counter", {"lives": str(folder / "lives")}))
    pool.broadcast("what")
    (folder / "hangs").touch()
    list(pool.map("square", [Call(0, ([2], 2, "hang_in_c")), Call(1, ([2], 2, "stop_itself"))]))
"""


def test_workers_that_hang_do_not_outlive_a_killed_driver(tmp_path: Path) -> None:
    """One in C code that holds Python's lock, one that is stopped."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), *sys.path])}
    driver = subprocess.Popen([sys.executable, "-c", textwrap.dedent(DRIVER), str(tmp_path)], env=env)
    deadline = time.monotonic() + 300
    while not (tmp_path / "hangs").exists():
        assert driver.poll() is None and time.monotonic() < deadline, "the driver did not come to the hang"
        time.sleep(0.1)
    time.sleep(1)
    family = psutil.Process(driver.pid).children(recursive=True)
    workers = {*map(int, (tmp_path / "lives").read_text().split())}
    assert len(workers) == 2 and workers <= {process.pid for process in family}
    assert "raylet" in {process.name() for process in family}
    driver.kill()
    driver.wait()
    check_gone(family)


def gone(process: int, seconds: float = 10) -> bool:
    """Whether a process ends within the time; one that only waits to be reaped has ended."""
    deadline = time.monotonic() + seconds
    while is_alive(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
