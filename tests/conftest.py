"""Shared fixtures: a tiny policy and reward model made once a session, prompt files, and a config that runs with them."""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import typer.testing
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from typer.testing import CliRunner, Result

from selfplay.cli.main import app
from selfplay.run import driver
from selfplay.run.worker_specs import ray_workers
from tests.helpers.configs import write_config_of
from tests.helpers.make_run import make_run
from tests.helpers.preflights import check_models_once, try_no_templates

# The suite tries the same examples each time, so that a failure is the change's; a machine under load is no failure.
# `pytest --hypothesis-profile=explore` tries new ones.
hypothesis_settings.register_profile(
    "suite",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
hypothesis_settings.register_profile(
    "explore", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
hypothesis_settings.load_profile("suite")

# The suite has a process for each core; threads of libraries would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
pa.set_cpu_count(1)

# Typer builds the parsers of all commands again for each call, which takes longer than most commands.
typer.testing._get_command = functools.cache(typer.testing._get_command)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: what takes minutes must not begin when the other processes have nothing left."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="module", autouse=True)
def import_path_stays() -> Iterator[None]:
    """A person's functions put their folders on the import path; the tests of the next file, and the workers that they start,
    must not find what lies there."""
    before = list(sys.path)
    yield
    sys.path[:] = before


@pytest.fixture(scope="module", autouse=True)
def garbage_is_looked_for_where_it_can_be() -> None:
    """The libraries that the files before imported are a million objects, and trainers and engines collect garbage often."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The runs that tests begin are noted in a folder of theirs, not in that of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_fsync() -> Iterator[None]:
    """The tests kill processes, not machines, and a killed process loses no page of the kernel. Which calls of fsync a power
    failure needs is the subject of tests/store/test_durable_crash_states.py, on recorded operations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def preflights_are_short() -> Iterator[None]:
    """See preflights.py."""
    with pytest.MonkeyPatch.context() as patch:
        check_models_once(patch)
        try_no_templates(patch)
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_starts_before_the_checks() -> Iterator[None]:
    """A run that its checks refuse would have started Ray for nothing. tests/test_api_early_start.py is about that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "early_ray_workers", lambda config: contextlib.nullcontext(ray_workers))
        yield


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `policy/`, `reward_model/` (random weights), `prompts.jsonl` and `eval_prompts.jsonl`."""
    from tests.helpers.tiny import make_tiny_llama, make_tiny_reward_model

    root = tmp_path_factory.mktemp("world")
    make_tiny_llama(root / "policy")
    make_tiny_reward_model(root / "reward_model")
    for name, count in (("prompts", 60), ("eval_prompts", 12)):
        rows = [{"prompt": f"{name} number {i}: say something.", "topic": i % 3} for i in range(count)]
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture
def write_config(tiny_world: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write a small config (see configs.py); keyword arguments replace or add sections."""

    return lambda **sections: write_config_of(tiny_world, tmp_path, **sections)


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of two rounds, made through the store. Read only: tests that change a run take `run_copy`."""
    return make_run(tmp_path_factory.mktemp("runs") / "whole").layout.root


@pytest.fixture
def run_copy(whole_run: Path, tmp_path: Path) -> Path:
    """A copy of `whole_run` that the test may change."""
    return Path(shutil.copytree(whole_run, tmp_path / "run"))


@pytest.fixture
def selfplay() -> Callable[..., Result]:
    """Call a command in this process; the result has `exit_code`, `stdout` and `stderr`."""
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])
