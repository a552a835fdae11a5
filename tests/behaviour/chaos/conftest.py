"""A small world, the process that commands are forked from, and the undisturbed run that every killed one must end like."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.register_assert_rewrite("tests.behaviour.chaos.harness")

from tests.behaviour.chaos.harness import CHECKPOINT_EVERY, TALLY, Case, Zygote, rows_of  # noqa: E402

GOLD = "def reward(prompt, response):\n    return float(len(response))\n"


@pytest.fixture(scope="session")
def small_world(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config whose run has several shards in each stage and several sealed checkpoints, and takes half a second."""
    root = tmp_path_factory.mktemp("chaos")
    document: dict[str, Any] = {
        "policy": {"model": str(tiny_world / "policy")},
        "prompts": {"source": str(tiny_world / "prompts.jsonl"), "per_round": 6},
        "sampling": {"num_responses": 4, "max_tokens": 8, "shard_size": 2},
        "reward": {"model": str(tiny_world / "reward_model")},
        "selection": {"keep": 0.5},
        "training": {
            "beta": 0.1, "learning_rate": 1e-3, "batch_size": 1, "epochs": 2, "checkpoint_every": CHECKPOINT_EVERY,
        },
        "evaluation": {
            "source": str(tiny_world / "eval_prompts.jsonl"), "num_prompts": 3, "num_responses": 2, "gold": "my_gold:reward",
        },
        "rounds": 1,
    }  # fmt: skip
    (root / "config.yaml").write_text(yaml.safe_dump(document))
    (root / "my_gold.py").write_text(GOLD)
    rows = [
        {"prompt": f"question {row}", "chosen": f"good answer {row % 7}", "rejected": f"bad answer {row % 5}, longer"}
        for row in range(16)
    ]
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture(scope="session")
def zygote(small_world: Path) -> Iterator[Zygote]:
    """See zygote.py."""
    process = Zygote(small_world)
    yield process
    process.close()


@pytest.fixture(scope="session")
def ground() -> Iterator[Path]:
    """A folder for the cases: in memory where there is such a place, for many small files are made in it."""
    memory = Path("/dev/shm")
    where = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="selfplay-chaos-", dir=where) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def whole(zygote: Zygote, small_world: Path, ground: Path) -> Case:
    """The run that nobody disturbs."""
    case = Case(zygote, ground / "whole")
    done = case.command("run", small_world / "config.yaml", "--run-dir", "run")
    assert done.code == 0, done.output
    assert rows_of(case.root / "run")
    return case


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What was killed, where and how."""
    if TALLY.kills:
        terminalreporter.section("kills")
        for line in TALLY.lines():
            terminalreporter.write_line(line)
