"""The run directory: made once, opened, its attempts, and tables that `datasets` reads as they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from selfplay.config.load import load_config
from selfplay.core.errors import ConfigError, CorruptionError, SelfplayError
from selfplay.execution.progress import Reporter
from selfplay.run import driver
from selfplay.store.new_folder import require_empty_dir
from selfplay.store.run import Store
from tests.helpers.fakes import Fakes
from tests.helpers.sealing import rewrite
from tests.helpers.stages import every_stage


def test_create_then_open(tmp_path: Path) -> None:
    made = Store.create(tmp_path / "a/run", {"given.yaml": b"rounds: 1\n"})
    opened = Store.open(tmp_path / "a/run")
    assert (opened.run_id, opened.created) == (made.run_id, made.created)
    assert opened.config_file("given.yaml") == b"rounds: 1\n"
    assert opened.rounds() == []
    with pytest.raises(CorruptionError, match=r"pins\.json is missing"):
        opened.config_file("pins.json")
    assert Store.create(tmp_path / "b", {}).run_id != made.run_id


def test_what_is_there_is_never_taken_for_a_new_run(tmp_path: Path) -> None:
    Store.create(tmp_path / "run", {})
    with pytest.raises(ConfigError, match="already contains a run") as error:
        Store.create(tmp_path / "run", {})
    assert "selfplay resume" in error.value.hint
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").touch()
    (tmp_path / "file").touch()
    for name in ("full", "file"):
        with pytest.raises(ConfigError, match="exists and is not empty"):
            Store.create(tmp_path / name, {})
    assert [*(tmp_path / "full").iterdir()] == [tmp_path / "full/thesis.tex"]
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked/run.lock").touch()
    for name in ("locked", "absent"):
        require_empty_dir(tmp_path / name)


def test_what_is_no_run_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent does not exist \(no RUN.json\)"):
        Store.open(tmp_path / "absent")
    with pytest.raises(ConfigError, match=r"is not a run \(no RUN.json\)"):
        Store.open(tmp_path)
    identity = Store.create(tmp_path / "run", {}).layout.identity
    document = json.loads(identity.read_bytes())
    rewrite(identity, lambda document: document.update(schema_version=99))
    with pytest.raises(ConfigError, match="schema version 99") as newer:
        Store.open(tmp_path / "run")
    assert newer.value.hint == "Use selfplay 0.1.0."
    for damage in ("{", "[]", json.dumps({"id": "x"}), json.dumps(document | {"schema_version": "one"})):
        identity.write_text(damage)
        with pytest.raises(CorruptionError, match=r"RUN\.json is damaged"):
            Store.open(tmp_path / "run")


def test_attempts_are_counted_and_a_killed_one_has_no_end(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "run", {})
    assert store.begin_attempt({"pid": 1}) == 1
    store.end_attempt(1, "failed", "out of disk")
    assert store.begin_attempt({"pid": 2}) == 2
    (store.layout.attempt(3)).mkdir()  # killed before it had said anything
    assert store.begin_attempt({"pid": 4}) == 4
    first, second, fourth = store.attempt_documents()
    assert (first["pid"], first["end"]["outcome"], first["end"]["message"]) == (1, "failed", "out of disk")
    assert (second["attempt"], second["end"], fourth["attempt"]) == (2, None, 4)


def test_a_stage_that_was_not_committed_is_not_corruption(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "run", {})
    with pytest.raises(SelfplayError, match="stage sample of round 1 is not committed") as error:
        store.table(1, "sample")
    assert not isinstance(error.value, CorruptionError)
    assert not store.is_committed(1, "sample")
    with pytest.raises(SelfplayError, match="not committed"):
        store.writer(1, "score", "f", [(1, "sample")])


def test_scratch_is_kept_until_it_is_dropped(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "run", {})
    (store.scratch(1) / "checkpoint").touch()
    assert (store.scratch(1) / "checkpoint").is_file()
    store.drop_scratch(1)
    assert not store.layout.trainer_scratch(1).exists()


def test_every_table_is_read_by_load_dataset_as_it_is(write_config: Callable[..., Path], tmp_path: Path) -> None:
    config = write_config(rounds=1)
    prepared = driver.preflight(load_config(config), config.parent, tmp_path / "run")
    store = driver.run(prepared, config.read_text(), [], Reporter(quiet=True), workers=Fakes())
    from datasets import load_dataset

    read = []
    for number, name in every_stage(1):
        if name == "train":
            continue  # a policy, not a table
        table = store.table(number, name)
        folder = str(store.layout.stage(number, name))
        dataset = load_dataset(folder, split="train", cache_dir=str(tmp_path / "cache"))
        assert dataset.column_names == table.column_names
        assert dataset.num_rows == table.num_rows > 0
        assert pa.table(dataset.to_dict(), schema=table.schema).equals(table)
        read.append(name)
    assert read == ["prompts", "evaluate", "prompts", "sample", "score", "pair", "logprobs", "select", "evaluate"]


SETTINGS = {"resolved.json": b'{"lr": 1e-05}', "pins.json": b"{}", "given.yaml": b"lr: 1e-5\n"}


@pytest.mark.parametrize("name", [*(f"config/{name}" for name in SETTINGS), "attempts/0001/attempt.json", "RUN.json"])
def test_settings_are_what_was_written_or_damaged(tmp_path: Path, name: str) -> None:
    """A flipped bit in a number would be another experiment."""
    root = tmp_path / "run"
    store = Store.create(root, SETTINGS)
    store.begin_attempt({"config": {"lr": 1e-5}})
    store.end_attempt(1, "complete")
    path = root / name
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises((CorruptionError, ConfigError)) as found:
            again = Store.open(root)
            again.attempt_documents()
            [again.config_file(file) for file in SETTINGS]
        assert path.name in found.value.message and isinstance(found.value, CorruptionError)
    path.write_bytes(data)
    Store.open(root).attempt_documents()
