"""A run of every schema version is opened by every command that looks at runs; one of a newer version is refused by each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from selfplay.store.layout import SCHEMA_VERSION

FIXTURES = Path(__file__).parents[1] / "fixtures"
OLD = sorted(path.name for path in FIXTURES.glob("run-v*"))
# (command, arguments behind RUN): a new command that looks at runs goes here
COMMANDS = [
    ("status",), ("rounds",), ("show", "1"), ("show", "0"), ("show", "2"), ("pairs", "1"), ("pairs", "2", "--limit", "3"),
    ("verify",), ("verify", "--deep"), ("gc", "--keep-checkpoints", "2", "--dry-run"),
]  # fmt: skip


def test_there_is_one_of_every_version() -> None:
    assert [f"run-v{version}" for version in range(1, SCHEMA_VERSION + 1)] == OLD


@pytest.mark.parametrize("name", OLD)
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_old_run_is_opened(selfplay: Callable[..., Result], name: str, command: tuple[str, ...]) -> None:
    for flags in ((), ("--json",)):
        result = selfplay(command[0], FIXTURES / name, *command[1:], *flags)
        assert result.exit_code == 0, result.output
        assert result.stdout
    json.loads(result.stdout)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_newer_run_is_refused_with_what_it_needs(
    selfplay: Callable[..., Result], tmp_path: Path, command: tuple[str, ...]
) -> None:
    run = Path(shutil.copytree(FIXTURES / OLD[-1], tmp_path / "run"))
    identity = json.loads((run / "RUN.json").read_text())
    (run / "RUN.json").write_text(json.dumps({**identity, "schema_version": 99}))
    result = selfplay(command[0], run, *command[1:])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "schema version 99" in result.stderr
    assert "Upgrade selfplay" in result.stderr
