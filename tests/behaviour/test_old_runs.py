"""A run of every schema version is opened by every command that looks at runs; one of a newer version is refused by each."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

import selfplay as package
from selfplay.core.errors import ConfigError
from selfplay.inspect.query.tables import TABLES
from selfplay.store.durable import json_with_checksum, parse_checked_json
from selfplay.store.layout import SCHEMA_VERSION
from selfplay.store.run import Store
from tests.helpers.sealing import rewrite

FIXTURES = Path(__file__).parents[1] / "fixtures"
OLD = sorted(path.name for path in FIXTURES.glob("run-v*"))
# (command, arguments behind RUN; PAIR and OUT are filled in): a new command that looks at runs goes here
COMMANDS = [
    ("status",), ("rounds",), ("show", "1"), ("show", "0"), ("show", "2"), ("pairs", "1"), ("pairs", "2", "--limit", "3"),
    ("pair", "PAIR"), ("diff", "@1"), ("diff", "@0", "--content"),
    ("sql", "select round, count(*) as n from pairs where kept group by round order by round"),
    ("report", "--out", "OUT/report.html"), ("report", "--redact", "--out", "OUT/redacted.html"),
    ("export", "--to", "OUT/dataset", "--policies", "none"), ("export", "--to", "OUT/jsonl", "--format", "jsonl"),
    ("verify",), ("verify", "--deep"), ("gc", "--keep-policies", "2", "--dry-run"),
]  # fmt: skip
# what needs the run's inputs, or stays open: refused for a newer run as the others are
OTHERS = [
    ("resume",), ("resume", "rounds=3"), ("fork", "--from-round", "1", "--dry-run"), ("gc", "--keep-policies", "2"),
    ("view", "--no-open", "--port", "0"), ("status", "--json"), ("verify", "--json"), ("rounds", "--json"),
]  # fmt: skip


def arguments(run: Path, command: tuple[str, ...], out: Path) -> list[Any]:
    pair = Store.open(FIXTURES / OLD[-1]).table(1, "select")["pair_id"][0].as_py()
    filled = (pair if word == "PAIR" else word.replace("OUT/", f"{out}/") for word in command[1:])
    return [command[0], run, *filled]


def digests(folder: Path) -> dict[str, str]:
    """Everything in a folder, by content."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_there_is_one_of_every_version() -> None:
    assert [f"run-v{version}" for version in range(1, SCHEMA_VERSION + 1)] == OLD


@pytest.mark.parametrize("name", OLD)
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_old_run_is_opened(
    selfplay: Callable[..., Result], tmp_path: Path, name: str, command: tuple[str, ...]
) -> None:
    before = digests(FIXTURES / name)
    for flags in ((), ("--json",)):
        out = tmp_path / ("json" if flags else "text")
        out.mkdir()
        result = selfplay(*arguments(FIXTURES / name, command, out), *flags)
        assert result.exit_code == 0, result.output
        assert result.stdout
        assert bool([*out.iterdir()]) is any("OUT/" in word for word in command)
    json.loads(result.stdout)
    assert digests(FIXTURES / name) == before


@pytest.mark.parametrize("name", OLD)
def test_an_old_run_is_opened_from_python(name: str) -> None:
    run = package.open_run(FIXTURES / name)
    assert run.round_numbers == [0, 1, 2]
    for table in TABLES:
        assert getattr(run, table).to_arrow().num_rows > 0, table
    assert run.rounds.to_arrow().num_rows == 3
    assert run.show(2)["complete"]


@pytest.mark.parametrize("name", OLD)
def test_an_old_run_is_viewed(name: str) -> None:
    from tests.helpers.viewing import client_of

    client = client_of(FIXTURES / name)
    pair = Store.open(FIXTURES / name).table(1, "select")["pair_id"][0].as_py()
    for page in ("", "/round/0", "/round/1", "/round/2", "/round/1/pairs", f"/round/1/pair?id={pair}"):
        answer = client.get(f"/run/{name}{page}")
        assert answer.status_code == 200, (page, answer.text)


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """A run as selfplay 9.9.0 may write it one day."""
    run = Path(shutil.copytree(FIXTURES / OLD[-1], tmp_path / "run"))
    identity = parse_checked_json((run / "RUN.json").read_bytes())
    newer = {**identity, "schema_version": 99, "selfplay": "9.9.0", "unheard_of": [1]}
    (run / "RUN.json").write_bytes(json_with_checksum(newer))
    return run


@pytest.mark.parametrize("command", [*COMMANDS, *OTHERS], ids=" ".join)
def test_a_newer_run_is_refused_with_what_it_needs(
    selfplay: Callable[..., Result], newer: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    before = digests(tmp_path)
    result = selfplay(*arguments(newer, command, tmp_path))
    assert (result.exit_code, result.stdout) == (2, "")
    said = " ".join(result.stderr.split())
    assert f"was written by selfplay 9.9.0, schema version 99; this one, {package.__version__}, reads version" in said
    assert "Use selfplay 9.9.0." in said
    assert digests(tmp_path) == before


def test_a_newer_run_is_refused_from_python(newer: Path) -> None:
    with pytest.raises(ConfigError, match=r"selfplay 9\.9\.0, schema version 99"):
        package.open_run(newer)


def test_a_new_run_names_the_version_that_made_it(tmp_path: Path) -> None:
    identity = Store.create(tmp_path / "run", {}).layout.identity
    assert json.loads(identity.read_bytes())["selfplay"] == package.__version__
    # a run that does not say so is as old as that key
    rewrite(identity, lambda document: document.update(schema_version=99, selfplay=None))
    with pytest.raises(ConfigError, match="written by schema version 99") as refused:
        Store.open(tmp_path / "run")
    assert refused.value.hint == "Use the version of selfplay that wrote it."
