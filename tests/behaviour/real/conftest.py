"""A small world whose policy ends its responses (a few seconds of fine-tuning), and the command line as a child process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from selfplay.store.run import Store
from tests.helpers.stages import every_stage
from tests.helpers.worlds import small_world

# so that an engine does not hold all prompts of a round at once, and a kill finds some done and some not begun
FEW_SLOTS = {"max_num_seqs": 16}

# seconds that a start, a stage or a whole run may take on a machine that has other work
PATIENCE = float(os.environ.get("SELFPLAY_PATIENCE", "900"))

Selfplay = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See worlds.py."""
    return small_world(tmp_path_factory.mktemp("small") / "world", tmp_path_factory)[0].folder


@pytest.fixture
def config(world: Path, tmp_path: Path) -> Path:
    """Two rounds in the small world, cut into many shards so that a kill meets the middle of a stage."""
    document = yaml.safe_load((world / "config.yaml").read_text())
    for section, key in (("policy", "model"), ("reward", "model"), ("prompts", "source"), ("evaluation", "source")):
        document[section][key] = str(world / document[section][key])
    document["rounds"] = 2
    document["prompts"]["per_round"] = 160
    document["sampling"] |= {"num_responses": 4, "max_tokens": 48, "shard_size": 8, "engine": FEW_SLOTS}
    document["selection"] = {"keep": 0.5}
    document["training"] |= {"epochs": 6, "batch_size": 4, "learning_rate": 5e-4, "checkpoint_every": 4}
    document["evaluation"] |= {"num_prompts": 16, "num_responses": 1}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


# `selfplay ARGUMENTS` with a network of its own, in which there is nothing but the loopback, and with the kernel's count of what
# had no way out. (A connection that is refused for that reason is counted, also of UDP, with which names are looked up.)
_ALONE = """
import fcntl, runpy, socket, struct, sys
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
def no_routes():
    four = [line.split() for line in open("/proc/net/snmp") if line.startswith("Ip:")]
    six = dict(line.split() for line in open("/proc/net/snmp6"))
    return int(dict(zip(*four))["OutNoRoutes"]) + int(six["Ip6OutNoRoutes"])
try:
    runpy.run_module("selfplay", run_name="__main__")
finally:
    print("attempts to leave this machine:", no_routes(), flush=True)
"""
CAN_BE_ALONE = os.geteuid() == 0 and shutil.which("unshare") is not None


@pytest.fixture
def selfplay(tmp_path: Path) -> Iterator[Selfplay]:
    """Start `selfplay ARGUMENTS` as a child process, output in tmp_path/output.txt. A test that fails leaves none at work."""
    children: list[subprocess.Popen[str]] = []

    def run(arguments: Sequence[str | Path], wait: bool = True, alone: bool = False) -> subprocess.Popen[str]:
        program = ["unshare", "--net", sys.executable, "-c", _ALONE] if alone else [sys.executable, "-m", "selfplay"]
        with open(tmp_path / "output.txt", "a", encoding="utf-8") as output:
            child = subprocess.Popen(
                [*program, *map(str, arguments)],
                stdout=output, stderr=output, text=True, env={**os.environ, "COLUMNS": "200"},
            )  # fmt: skip
        children.append(child)
        if wait:
            code = child.wait(timeout=PATIENCE)
            assert code == 0, (tmp_path / "output.txt").read_text()[-4000:]
        return child

    yield run
    for child in children:
        child.kill()
        child.wait()


def wait_for(condition: Callable[[], bool], child: subprocess.Popen[str]) -> None:
    """Until a run has come to where it is to be stopped."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert child.poll() is None, "the run ended before it was to be stopped"
        assert time.monotonic() < deadline, "the run did not come to where it was to be stopped"
        time.sleep(0.005)


def num_kept(run: Path, stage: str) -> int:
    """Shards that are kept of a stage at work ("001-sample")."""
    return len(list((run / ".work" / stage).glob(".part-*.json")))


def committed_rows(run: Path, rounds: int) -> dict[str, list[str]]:
    """Digests of all tables, and of the policies' weights: a training that was killed ends with the same bits."""
    store = Store.open(run)
    return {
        f"{number}/{name}": [
            entry.sha256
            for entry in store.commit_of(number, name).files
            if entry.rows is not None or entry.path.endswith(".safetensors")
        ]
        for number, name in every_stage(rounds)
    }
