"""Injuries of a committed stage: each is corruption with file and remedy, none is read as if nothing were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from selfplay.core.errors import CorruptionError
from selfplay.store.commits import Commit, check_stage, read_commit
from selfplay.store.durable import encode_parquet
from selfplay.store.manifest import FileEntry
from selfplay.store.run import Store
from tests.helpers.outcomes import outcome_of
from tests.helpers.sealing import rewrite

TABLE = pa.table({"response_id": [f"r{i}" for i in range(40)], "reward": [float(i) for i in range(40)]})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A run with one stage of two shards, a second table inside it, and a stage made from it."""
    store = Store.create(tmp_path / "run", {})
    writer = store.writer(1, "score", "f", [])
    for index in range(2):
        writer.write_shard(index, TABLE.slice(20 * index, 20))
    writer.write_shard(0, TABLE, ".gold")
    writer.commit(1, "now", 0.1, outcome_of("score", num_responses=40))
    store.writer(1, "pair", "f", [(1, "score")]).commit(1, "now", 0.1, outcome_of("pair"))
    return Store.open(tmp_path / "run")


def folder_of(store: Store) -> Path:
    return store.layout.stage(1, "score")


def flip(path: Path, place: int = 100) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def injuries() -> dict[str, tuple[Callable[[Path], object], str]]:
    """What is done to the stage's folder, and what is said of it at the first read (trust by shape)."""
    return {
        "truncated": (lambda f: (f / "part-00001.parquet").write_bytes(b"PAR1"), r"part-00001\.parquet has 4 bytes"),
        "missing": (lambda f: (f / "part-00000.parquet").unlink(), r"part-00000\.parquet is missing"),
        "missing in a table inside": (
            lambda f: (f / ".gold/part-00000.parquet").unlink(),
            r"\.gold/part-00000.* is missing",
        ),
        "a link": (
            lambda f: (
                (f / "part-00000.parquet").rename(f.parent / "x")
                and (f / "part-00000.parquet").symlink_to(f.parent / "x")
            ),
            r"part-00000\.parquet is missing",
        ),
        "extra": (lambda f: (f / "part-00002.parquet").write_bytes(encode_parquet(TABLE)), "is not in the manifest"),
        "no commit": (lambda f: (f / ".COMMIT.json").unlink(), r"has no \.COMMIT\.json"),
        "commit cut": (lambda f: (f / ".COMMIT.json").write_bytes(b'{"round": 1'), r"\.COMMIT\.json is damaged"),
        "commit not text": (lambda f: (f / ".COMMIT.json").write_bytes(b"\xff\xfe\x00"), r"\.COMMIT\.json is damaged"),
        "commit a text": (lambda f: (f / ".COMMIT.json").write_bytes(b'"commit"'), r"\.COMMIT\.json is damaged"),
        "commit a list": (lambda f: (f / ".COMMIT.json").write_bytes(b"[]"), r"\.COMMIT\.json is damaged"),
        "commit without a key": (lambda f: rewrite(f / ".COMMIT.json", lambda d: d.pop("stage")), "is damaged"),
        "commit with a strange key": (lambda f: rewrite(f / ".COMMIT.json", lambda d: d.update(rounD=1)), "is damaged"),
        "commit with a changed figure": (
            lambda f: (f / ".COMMIT.json").write_bytes(
                (f / ".COMMIT.json").read_bytes().replace(b'"seconds": 0.1', b'"seconds": 0.2')
            ),
            "is damaged .its content does not match its sha256",
        ),
        "path above": (
            lambda f: rewrite(f / ".COMMIT.json", lambda d: d["files"][0].update(path="../../RUN.json")),
            "names a file outside its folder",
        ),
        "path from the root": (
            lambda f: rewrite(f / ".COMMIT.json", lambda d: d["files"][0].update(path="/etc/hostname")),
            "names a file outside its folder",
        ),
        "path no text": (
            lambda f: rewrite(f / ".COMMIT.json", lambda d: d["files"][0].update(path=7)),
            r"0\.path: Input should be a valid string",
        ),
    }


@pytest.mark.parametrize("injury", injuries())
def test_injuries_of_shape_are_found_by_every_read(store: Store, injury: str) -> None:
    injure, message = injuries()[injury]
    injure(folder_of(store))
    with pytest.raises(CorruptionError, match=message) as error:
        store.table(1, "score")
    assert error.value.exit_code == 5
    assert str(folder_of(store)) in error.value.message
    assert "emove" in error.value.hint
    # what is damaged is not taken for what was never made
    assert store.is_committed(1, "score")


def test_a_flipped_bit_is_found_before_a_stage_uses_the_file(store: Store) -> None:
    path = folder_of(store) / "part-00001.parquet"
    flip(path)
    with pytest.raises(CorruptionError, match=r"part-00001\.parquet is damaged: its sha256 differs") as error:
        store.writer(1, "select", "f", [(1, "score")])
    assert f"remove {folder_of(store)}" in error.value.hint
    commit, digest = read_commit(folder_of(store))
    check_stage(folder_of(store), commit, digest)
    with pytest.raises(CorruptionError, match="sha256 differs"):
        check_stage(folder_of(store), commit, digest, digests=True)


def test_a_table_that_cannot_be_read_is_corruption_too(store: Store) -> None:
    path = folder_of(store) / "part-00001.parquet"
    flip(path, path.stat().st_size - 2)
    with pytest.raises(CorruptionError, match=r"part-00001\.parquet cannot be read"):
        store.table(1, "score")


def test_a_count_of_rows_that_is_not_the_footers_is_corruption(store: Store) -> None:
    rewrite(folder_of(store) / ".COMMIT.json", lambda d: [e.update(rows=19) for e in d["files"] if e["rows"] == 20])
    with pytest.raises(CorruptionError, match="has 20 rows, its commit says 19"):
        store.table(1, "score")


def test_digests_are_checked_once_in_an_attempt(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from selfplay.store import run

    seen = []
    monkeypatch.setattr(
        run, "check_stage", lambda folder, commit, digest, *, digests=False: seen.append(folder) if digests else None
    )
    store.writer(1, "select", "f", [(1, "score")])
    store.writer(1, "train", "f", [(1, "score")])
    assert seen == [folder_of(store)]


def test_lineage_is_a_chain_of_digests(store: Store) -> None:
    commit, _ = read_commit(store.layout.stage(1, "pair"))
    assert commit.inputs == {"001/score": store.digest_of(1, "score")}
    before = store.digest_of(1, "score")
    rewrite(folder_of(store) / ".COMMIT.json", lambda d: d.update(fingerprint="other"))
    assert Store.open(store.layout.root).digest_of(1, "score") != before


def test_hidden_files_beside_the_table_are_no_part_of_it(store: Store) -> None:
    (folder_of(store) / ".DS_Store").touch()
    assert store.table(1, "score").equals(TABLE)
    assert store.table(1, "score", ".gold").equals(TABLE)
    assert store.table(1, "score", columns=["reward"]).column_names == ["reward"]
    with pytest.raises(CorruptionError, match="has no table 'silver'"):
        store.table(1, "score", "silver")


def test_shape_is_of_what_stands_in_the_folder(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "stage", tmp_path / "elsewhere"
    (folder / "policy/deep").mkdir(parents=True)
    (folder / "part-00000.parquet").write_bytes(b"12")
    (folder / "policy/deep/a.bin").write_bytes(b"123")
    files = [FileEntry("part-00000.parquet", 2, ""), FileEntry("policy/deep/a.bin", 3, "")]
    commit = Commit(1, "train", "f", {}, files, 1, "", 0.0)
    check_stage(folder, commit, "")
    (folder / ".hidden").write_bytes(b"1")
    check_stage(folder, commit, "")
    (folder / "policy/deep/b.bin").write_bytes(b"")
    with pytest.raises(CorruptionError, match=r"policy/deep/b.bin is not in the manifest"):
        check_stage(folder, commit, "")
    (folder / "policy/deep/b.bin").unlink()
    # no link is followed, be it back up or to where the folder was moved
    (folder / "loop").symlink_to(folder)
    with pytest.raises(CorruptionError, match=r"loop is not in the manifest"):
        check_stage(folder, commit, "")
    (folder / "loop").unlink()
    (folder / "policy").rename(elsewhere)
    (folder / "policy").symlink_to(elsewhere)
    with pytest.raises(CorruptionError, match=r"policy/deep/a.bin is missing"):
        check_stage(folder, commit, "")
