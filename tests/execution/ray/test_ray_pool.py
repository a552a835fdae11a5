"""Real Ray, one local instance for the module: order, bounds, errors, deaths, progress, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from selfplay.config.running import ClusterConfig, RoleConfig
from selfplay.core.errors import BackendError, ModelError, ResourceError, WeightSyncError
from selfplay.core.pool import BackendSpec, Call
from selfplay.execution.ray.ray_cluster import RayCluster
from selfplay.execution.ray.ray_pool import RayPool
from selfplay.execution.ray.ray_workers import new_worker
from tests.helpers.processes import is_alive, lines_of, workers_find_the_tests

pytestmark = pytest.mark.slow

MakePool = Callable[..., RayPool]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    before = signal.getsignal(signal.SIGTERM)
    # what tests of other files have left in this process, as multiprocessing's resource tracker, which lives as long
    others = {process.pid for process in psutil.Process().children(recursive=True)}
    with workers_find_the_tests(), RayCluster(ClusterConfig(), tmp_path_factory.mktemp("logs")) as cluster:
        # ray.init takes SIGTERM for itself; the driver's handler stops a run at a safe point
        assert signal.getsignal(signal.SIGTERM) is before
        yield cluster
        family = {process.pid for process in psutil.Process().children(recursive=True)} - others
        assert len(family) >= 2
    assert gone(family)


def make_a_pool(
    folder: Path,
    target: str = "Counter",
    replicas: int = 1,
    start_timeout: float = 60.0,
    spare: Sequence[Any] = (),
    **kwargs: Any,
) -> RayPool:
    return RayPool(
        name="sampler",
        spec=BackendSpec(
            f"tests.helpers.pool_backends:{target}", kwargs, setup="tests.helpers.pool_backends:set_marker"
        ),
        replicas=replicas,
        demand={},
        env={"POOL_TEST_ENV": "set"},
        log_folder=folder,
        retries=2,
        start_timeout=start_timeout,
        spare=spare,
    )


@pytest.fixture
def make_pool(cluster: RayCluster, tmp_path: Path) -> Iterator[MakePool]:
    """A pool of `tests/helpers/pool_backends.py` classes; its workers end with the test."""
    pools: list[RayPool] = []

    def make(target: str = "Counter", **kwargs: Any) -> RayPool:
        pools.append(make_a_pool(tmp_path, target, **kwargs))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


@pytest.fixture(scope="module")
def pair(cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayPool]:
    """Two workers for the tests that leave them alive."""
    pool = make_a_pool(tmp_path_factory.mktemp("pair"), replicas=2)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def logs_of_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("one")


@pytest.fixture(scope="module")
def one(cluster: RayCluster, logs_of_one: Path) -> Iterator[RayPool]:
    """One worker for the tests that leave it alive."""
    pool = make_a_pool(logs_of_one)
    yield pool
    pool.close()


def test_ray_listens_on_loopback_only(cluster: RayCluster) -> None:
    import ray

    assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    names = {process.name() for process in family}
    assert {"raylet", "gcs_server"} <= names
    for process in family:
        for connection in process.net_connections(kind="inet"):
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip in ("127.0.0.1", "::1", "::ffff:127.0.0.1"), (process.cmdline(), connection)


OTHER_USER = """
import os, sys
import ray
from ray._raylet import GcsClient
from selfplay.execution.ray.private_api import read_environment
address, folder, mode, driver = sys.argv[1:]
os.environ["RAY_AUTH_MODE"] = mode
os.environ["RAY_AUTH_TOKEN"] = "0" * 64
read_environment()
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
def answer(name, ask):
    try:
        print(name, "answered", ask(), flush=True)
    except Exception as error:
        print(name, "refused", type(error).__name__, flush=True)
answer("list", lambda: os.listdir(folder))
answer("environment", lambda: open(f"/proc/{driver}/environ").read())
answer("read", lambda: GcsClient(address=address).internal_kv_keys(b"", None))
answer("write", lambda: GcsClient(address=address).internal_kv_put(b"attacker", b"was here", True, b"fun"))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
@pytest.mark.parametrize("mode", ["disabled", "token"])
def test_another_user_of_the_machine_is_refused(cluster: RayCluster, mode: str) -> None:
    """Without a token and with a wrong one. Who writes into the key-value store, where pickled classes lie, executes code as the
    user of the run."""
    import ray

    node: Any = ray._private.worker._global_node
    done = subprocess.run(
        [sys.executable, "-c", OTHER_USER, node.gcs_address, str(Path(node.temp_dir).parent), mode, str(os.getpid())],
        capture_output=True, text=True, check=False, timeout=100, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.stdout.splitlines()[:2] == ["list refused PermissionError", "environment refused PermissionError"]
    assert "answered" not in done.stdout, done.stdout
    assert ray.experimental.internal_kv._internal_kv_get(b"attacker", namespace=b"fun") is None


def test_the_token_is_on_no_command_line(cluster: RayCluster) -> None:
    token = os.environ["RAY_AUTH_TOKEN"]
    lines = lines_of(psutil.Process().children(recursive=True))
    assert any("raylet" in line for line in lines)
    assert not [line for line in lines if token in line]


def test_a_sigterm_to_every_process_leaves_the_workers_at_work(one: RayPool) -> None:
    # as Slurm sends it; the driver, which is to finish what is under way, is not among the children
    results = one.map("sleep", [Call(key, (0.2,)) for key in range(5)])
    _, worker = next(results)
    family = psutil.Process().children(recursive=True)
    assert {"raylet", "gcs_server"} <= {process.name() for process in family}
    for process in family:
        process.send_signal(signal.SIGTERM)
    assert list(results) == [(key, worker) for key in range(1, 5)]
    assert all(process.is_running() for process in family)


def test_results_come_with_their_keys_as_they_are_done(pair: RayPool) -> None:
    results = dict(pair.map("add", [Call(key, (key, 100)) for key in range(40)]))
    assert results == {key: key + 100 for key in range(40)}
    # a long call does not hold up the other worker's short ones
    order = [key for key, _ in pair.map("sleep", [Call(0, (2.0,)), *(Call(key, (0.0,)) for key in range(1, 6))])]
    assert order.index(0) >= 4
    assert sorted(order) == list(range(6))


def test_few_calls_are_in_flight_at_a_time(pair: RayPool) -> None:
    drawn: list[int] = []

    def calls() -> Iterator[Call]:
        for key in range(50):
            drawn.append(key)
            yield Call(key, (key, 0))

    results = pair.map("add", calls())
    for done in range(1, 11):
        next(results)
        # two a worker are running or waiting, besides those that came back
        assert len(drawn) <= done + 2 * 2
    results.close()  # type: ignore[attr-defined]
    assert len(drawn) <= 14


def test_setup_and_environment_reach_the_workers(pair: RayPool) -> None:
    assert pair.broadcast("environment", "POOL_TEST_SETUP") == ["ran before"] * 2
    assert pair.broadcast("environment", "POOL_TEST_ENV") == ["set"] * 2


def test_errors_keep_their_class_and_hint(one: RayPool, logs_of_one: Path) -> None:
    with pytest.raises(ModelError) as ours:
        list(one.map("fail", [Call(0, ("model",))]))
    assert (ours.value.message, ours.value.hint) == ("no such model", "Look for it.")
    with pytest.raises(WeightSyncError, match="sampler worker 0: canary missed") as missed:
        one.broadcast("fail", "weights")
    assert missed.value.hint == "Rebuild."
    with pytest.raises(BackendError, match="sampler worker 0: KeyError: 'not ours'") as foreign:
        list(one.map("fail", [Call(0, ("other",))]))
    assert str(logs_of_one / "sampler-0.log") in foreign.value.hint
    assert "Traceback" in (logs_of_one / "sampler-0.log").read_text()
    # the worker lives on
    assert list(one.map("add", [Call(7, (1, 2))])) == [(7, 3)]


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("model", ModelError, "the folder is empty"),
        ("other", BackendError, "RuntimeError: out of luck"),
        ("death", BackendError, r"sampler worker 0 died while it started(.|\n)*dying young"),
    ],
)
def test_errors_of_construction(make_pool: MakePool, kind: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_pool("Unmakeable", kind=kind).broadcast("anything")


def test_a_slow_start_has_a_deadline(make_pool: MakePool) -> None:
    started = time.monotonic()
    with pytest.raises(BackendError, match="not started within 3 s: sampler 0") as late:
        make_pool("Slow", start_timeout=3).broadcast("anything")
    assert time.monotonic() - started < 45
    assert "cluster.start_timeout" in late.value.hint


def test_a_worker_that_dies_is_replaced_and_its_calls_run_again(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(lives=str(tmp_path / "lives"))
    [(first, before)] = pool.broadcast("tell", "the news")
    assert before == "nothing"
    calls = [Call(key, (str(tmp_path / "died"), key)) for key in range(6)]
    results = dict(pool.map("die_once", calls))
    # the replacement was told what everyone had been told
    assert results == {key: (key, "the news") for key in range(6)}
    [(second, told)] = pool.broadcast("what")
    assert told == "the news"
    assert (tmp_path / "lives").read_text().split() == [str(first), str(second)]


def test_a_death_while_everyone_is_told_runs_it_once_on_the_replacement(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool()
    [(victim, _)] = pool.broadcast("what")
    os.kill(victim, signal.SIGKILL)
    [(replacement, before)] = pool.broadcast("tell", "the news")
    assert replacement != victim
    assert before == "nothing"


def test_a_worker_that_dies_too_often_ends_the_stage(
    make_pool: MakePool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pool = make_pool(lives=str(tmp_path / "lives"))
    with pytest.raises(BackendError, match="died 3 times in this stage") as dead:
        list(pool.map("die", [Call(0, ()), Call(1, ())]))
    assert "these are my last words" in dead.value.message
    assert str(tmp_path / "sampler-0.log") in dead.value.hint
    assert len((tmp_path / "lives").read_text().split()) == 3
    # what a worker prints goes to its own log, not to the driver's screen
    assert "my last words" not in "".join(capfd.readouterr())


def test_a_stream_yields_progress_as_it_comes_then_the_result(one: RayPool) -> None:
    assert list(one.run_streaming("count", 5)) == [0, 1, 2, 3, 4, "done"]
    with pytest.raises(WeightSyncError, match="canary missed"):
        list(one.run_streaming("count_then_fail"))


def test_a_second_death_in_a_stream_ends_it_and_keeps_what_came_before(make_pool: MakePool, tmp_path: Path) -> None:
    seen = []
    with pytest.raises(BackendError, match=r"the sampler died twice(.|\n)*these are my last words") as dead:
        for item in make_pool().run_streaming("count_then_die", 3):
            seen.append(item)
    assert seen == [0, 1, 2, 0, 1, 2]
    assert str(tmp_path / "sampler-0.log") in dead.value.hint
    assert "resume" in dead.value.hint


def test_a_wait_for_workers_that_hang_can_be_interrupted_and_close_ends_them(make_pool: MakePool) -> None:
    pool = make_pool(replicas=2)
    processes = [process for process, _ in pool.broadcast("what")]
    assert len({*processes}) == 2

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    started = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            list(pool.map("sleep", [Call(key, (300.0,)) for key in range(4)]))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - started < 60
    pool.close()
    assert gone(processes)


def gone(processes: Iterable[int], seconds: float = 10) -> bool:
    """Whether all end within the time; one that only waits to be reaped has ended."""
    deadline = time.monotonic() + seconds
    while [number for number in processes if is_alive(number)]:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def check(cluster: RayCluster, tmp_path: Path, scorers: int = 1, **roles: RoleConfig) -> None:
    """The check of another configuration against the Ray that runs already."""
    RayCluster(ClusterConfig(**roles), tmp_path, scorers=scorers).check_resources()


def test_a_pool_builds_its_backend_in_a_worker_that_waits(tmp_path: Path, cluster: RayCluster) -> None:
    """What the worker was told to import is imported once more by the backend, which then says what is wrong there."""
    import ray

    spec = BackendSpec("tests.helpers.pool_backends:Counter")
    waiting = new_worker(spec, {}, {"POOL_TEST_ENV": "set"})
    waiting.prepare.remote("tests.helpers.no_such_module:function")
    pool = make_a_pool(tmp_path, spare=[waiting])
    try:
        (answer,) = pool.broadcast("what")
        assert ray.get(waiting.call.remote("what", ())).value == answer
    finally:
        pool.close()


def test_what_can_never_be_placed_is_refused_at_once(cluster: RayCluster, tmp_path: Path) -> None:
    check(cluster, tmp_path)
    started = time.monotonic()
    with pytest.raises(ResourceError, match=r"no node can hold one trainer worker: it needs 1000 CPU; .* CPU") as one:
        check(cluster, tmp_path, trainer=RoleConfig(num_cpus=1000))
    assert "cluster.trainer" in one.value.hint
    with pytest.raises(ResourceError, match=r"it needs 1 tpu_of_mine"):
        check(cluster, tmp_path, scorer=RoleConfig(resources={"tpu_of_mine": 1}))
    with pytest.raises(ResourceError, match=r"together need 1000 CPU; the cluster has \d+ CPU \(CPU is short\)"):
        check(cluster, tmp_path, sampler=RoleConfig(num_cpus=1, replicas=1000))
    # each part of a combined reward has workers of its own
    check(cluster, tmp_path, scorers=3)
    with pytest.raises(ResourceError, match=r"together need 1200 CPU; the cluster has \d+ CPU \(CPU is short\)"):
        check(cluster, tmp_path, scorers=3, scorer=RoleConfig(num_cpus=1, replicas=400))
    assert time.monotonic() - started < 30


def test_a_second_pool_of_a_role_reserves_nothing(tmp_path: Path, cluster: RayCluster) -> None:
    import ray

    every = int(ray.cluster_resources()["CPU"])
    whole = RayCluster(ClusterConfig(scorer=RoleConfig(num_cpus=every)), tmp_path)
    whole.check_resources()
    spec = BackendSpec("tests.helpers.pool_backends:Counter")
    pools = [whole.pool("scorer", spec), whole.pool("scorer", spec, name="gold", reserves=False)]
    try:
        for pool in pools:
            pool.start()
        assert [pool.broadcast("add", 1, 1) for pool in pools] == [[2], [2]]
    finally:
        for pool in pools:
            pool.close()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_an_address_where_nothing_listens_is_refused_at_once(tmp_path: Path, address: str) -> None:
    started = time.monotonic()
    with pytest.raises(ResourceError, match=f"could not join {address}: .*refused"):
        RayCluster(ClusterConfig(address=address), tmp_path).__enter__()
    assert time.monotonic() - started < 10


def test_workers_import_nothing_from_the_working_directory(cluster: RayCluster) -> None:
    """A file there with the name of a library would be run in its place."""
    import ray

    assert list(ray._private.worker.global_worker.core_worker.get_job_config().py_driver_sys_path) == []
