"""Every legal crash state of the real durable layer: a verifying reader believes no false commit and misses no acknowledged one.

A small history (a run with shards, a policy, and scratch that is thrown away; a fork of it; its policy taken by `gc`; a folder
of results) is written by the real store through a recorder. Each state that a crash could leave at any point of it is put on a
disk, read with all checks, and then gone on with to the end, which must be that of the undisturbed history, without a shard that
was acknowledged being made again. `test_every_fsync_is_needed` removes the calls
of fsync one at a time: the checker must object to each.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from selfplay.core.errors import SelfplayError
from selfplay.core.stages import stage_named
from selfplay.inspect.verify.verify import verify_document
from selfplay.store import durable, run
from selfplay.store import policy_removal as removal
from selfplay.store.durable import sha256_bytes as sha256
from selfplay.store.fork import Fork
from selfplay.store.layout import REMOVED, part_name, stage_name
from selfplay.store.manifest import Manifest, check_files
from selfplay.store.result_folder import ResultWriter, read_result
from selfplay.store.run import Store
from tests.helpers.crash_disk import Counts, Recorder, crash_states, write_tree
from tests.helpers.outcomes import outcome_of

pytestmark = pytest.mark.slow

# The most states of one crash point; of more, so many are drawn by chance, all and none of the open changes among them.
MOST = 40  # `make chaos`
FEW = 6
CREATED = "2026-01-01T00:00:00Z"

# Every call of fsync in the store that this history comes to.
NEEDED = [
    "fsync in __exit__",  # of a file of a result
    "fsync in _link",
    "fsync in sync_tree",
    "fsync in write_file",
    "fsync_folder in commit",  # of a result
    "fsync_folder in link_tree",
    "fsync_folder in make_folder",
    "fsync_folder in move",
    "fsync_folder in sync_tree",
    "fsync_folder in write_file",
]
# With a rename that is one change for the disk, nothing is lost without it; a file system may see it as two.
HARMLESS = ["fsync_folder in publish_folder"]  # of the folder that the published one came from

SHARDS = {(1, "prompts"): {"": 1}, (1, "logprobs"): {"": 2, ".greedy": 1}, (1, "train"): {}}
READS = {(1, "prompts"): [], (1, "logprobs"): [(1, "prompts")], (1, "train"): [(1, "logprobs")]}


def rows(stage: str, table: str, index: int) -> pa.Table:
    return pa.table({"id": [f"{stage}{table}-{index}-{i}" for i in range(3)]})


@functools.cache
def digest_of(stage: str, table: str, index: int) -> str:
    """The sha256 of the shard: each state asks for all of them."""
    return sha256(durable.encode_parquet(rows(stage, table, index)))


POLICY = {"config.json": b'{"layers": 1}', "model.safetensors": bytes(range(256)) * 2, "tokenizer/vocab.txt": b"a b"}
SOUND: set[str] = set()  # states of runs that were checked
RESULT = {"README.md": b"what this is\n", "more/lines.jsonl": b'{"a": 1}\n{"a": 2}\n'}


@pytest.fixture(autouse=True)
def the_clock_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes on from different crashes to the same end writes the same bytes."""
    monkeypatch.setattr(run, "now", lambda: CREATED)


@dataclass
class History:
    """What is to be written below `disk`; whatever is there already is gone on with. `acknowledge` hears of each thing that the
    store says is safe, `made` lists the shards that were made."""

    disk: Path
    acknowledge: Callable[[Any], None] = lambda what: None
    made: list[Any] = field(default_factory=list)

    def walk(self, *parts: str) -> None:
        for part in parts:
            self.acknowledge(("begun", part))
            getattr(self, part)()

    def run(self) -> None:
        store = self._opened("run", None)
        number = store.begin_attempt({"pid": 1, "host": "here", "config": {}, "versions": {}})
        self.acknowledge(("attempt", number))
        self._other_history(store)
        for key in SHARDS:
            self._stage(store, key, number)
        store.end_attempt(number, "complete")
        self.acknowledge(("end", number))

    def _opened(self, name: str, fork: Fork | None) -> Store:
        root = self.disk / name
        if (root / "RUN.json").is_file():
            store = Store.open(root)
            store.clean_work()
            removal.finish_deletion(store.layout)
        else:
            durable.make_folder(root)
            files = {"resolved.json": b"{}", "pins.json": b"{}", "given.yaml": b"{}"}
            store = Store.create(root, files, fork)
        self.acknowledge(("run", name))
        return store

    def _other_history(self, store: Store) -> None:
        """Scratch of a stage with other inputs than it will have: it is thrown away when the stage begins."""
        if not store.is_committed(1, "prompts") and not store.layout.stage_work(1, "prompts").exists():
            writer = store.writer(1, "prompts", "another fingerprint", [])
            writer.write_shard(5, rows("prompts", "", 5))

    def _stage(self, store: Store, key: tuple[int, str], number: int) -> None:
        name = store.layout.root.name
        if store.is_committed(*key):
            return
        writer = store.writer(*key, "fingerprint", READS[key])
        for table, count in SHARDS[key].items():
            for index in sorted({*range(count)} - writer.shards(table)):
                writer.write_shard(index, rows(key[1], table, index), table)
                self.made.append((name, key, table, index))
                self.acknowledge(("shard", (name, key, table, index)))
        if key[1] == "train":
            writer.discard("policy")
            writer.adopt_folder(self._train(store.scratch(1)), "policy")
        writer.commit(number, CREATED, 1.0, outcome_of(key[1]))
        self.acknowledge(("commit", (name, key)))
        if key[1] == "train":
            store.drop_scratch(1)

    def _train(self, scratch: Path) -> Path:
        """As a trainer writes: nothing is fsynced."""
        output = scratch / "output"
        durable.discard(output)
        for name, data in POLICY.items():
            path = output / name
            for folder in reversed(path.parents):
                if not folder.is_dir():
                    durable.operations.mkdir(folder)
            with durable.operations.create(path) as file:
                durable.operations.write(file, data)
        return output

    def fork(self) -> None:
        source = Store.open(self.disk / "run")
        inherited = list(SHARDS)
        digests = {stage_name(*key): source.digest_of(*key) for key in inherited}
        store = self._opened("fork", Fork(source.run_id, "../run", digests))
        store.inherit()
        for key in inherited:
            self.acknowledge(("commit", ("fork", key)))

    def removal(self) -> None:
        """As `gc` does it, after the fork has taken the policy over."""
        layout = self._opened("run", None).layout
        removal.delete_policy(layout, 1, CREATED, "asked for")
        self.acknowledge(("removed", "run"))

    def result(self) -> None:
        root = self.disk / "result"
        durable.make_folder(root)
        if read_result(root) is not None:
            return
        writer = ResultWriter(root, root / ".work" / "output")
        for name, data in RESULT.items():
            writer.add(name, data)
        writer.add_parquet("kept/part-00000.parquet", rows("kept", "", 0).schema, [rows("kept", "", 0)])
        writer.commit({"kind": "selfplay select"})
        self.acknowledge(("result", None))
        durable.remove_tree(root / ".work")


def check_reading(disk: Path, acknowledged: list[Any]) -> None:
    """Nothing false is accepted, nothing acknowledged is missing, and a crash is never reported as damage."""
    for name in ("run", "fork"):
        if not (disk / name / "RUN.json").is_file():
            assert ("run", name) not in acknowledged, "a run that was created is gone"
            continue
        store = Store.open(disk / name)
        for key in SHARDS:
            if not store.is_committed(*key):
                assert ("commit", (name, key)) not in acknowledged, f"the commit of {key} is gone"
        if ("removed", name) in acknowledged:
            assert not (store.layout.stage(1, "train") / "policy").exists()
        check_run(store)
        ended = {document["attempt"] for document in store.attempt_documents() if document["end"]}
        assert not {what[1] for what in acknowledged if what[0] == "end"} - ended or name == "fork"
    found = read_result(disk / "result") if (disk / "result").is_dir() else None
    if found is None:
        assert ("result", None) not in acknowledged, "the result is gone"
    else:
        check_result(disk / "result", found)


def check_run(store: Store) -> None:
    """Each commit is what the history wrote, and `verify` finds nothing. Most crashes and all ends leave the same bytes as others
    did: these are checked once."""
    root = str(store.layout.root)
    tree = [
        (folder.removeprefix(root), sorted((name, Path(folder, name).read_bytes()) for name in names))
        for folder, _, names in os.walk(root)
    ]
    state = sha256(repr(sorted(tree)).encode())
    if state in SOUND:
        return
    for key in SHARDS:
        if store.is_committed(*key):
            check_commit(store, key)
    problems = verify_document(store.layout.root, deep=False)["problems"]
    # the one policy of this history may not go by the rule of which ones may: that rule has tests of its own
    problems = [problem for problem in problems if "but gc keeps" not in problem["message"]]
    assert not problems, [problem["message"] for problem in problems]
    SOUND.add(state)


def check_commit(store: Store, key: tuple[int, str]) -> None:
    store.require(*key)
    removed = (store.layout.stage(*key) / REMOVED).is_file()
    assert not removed or (store.layout.root.name, key[1]) == ("run", "train")
    assert store.outcome(key[0], stage_named(key[1]).outcome) == outcome_of(key[1])
    found = {entry.path: (entry.sha256, entry.rows) for entry in store.commit_of(*key).files}
    del found[".metrics.json"]
    expected = {
        f"{table}/{part_name(index)}".lstrip("/"): (digest_of(key[1], table, index), 3)
        for table, count in SHARDS[key].items()
        for index in range(count)
    }
    if key[1] == "train":
        expected |= {f"policy/{name}": (sha256(data), None) for name, data in POLICY.items()}
    assert found == expected


def check_result(root: Path, found: Manifest) -> None:
    assert {name: (root / name).read_bytes() for name in RESULT} == RESULT
    assert not list(check_files(root, found.files, digests=True))


def check_going_on(disk: Path, acknowledged: list[Any]) -> None:
    """The history goes on from a crash to the end of what had begun, and makes no shard again that was acknowledged."""
    begun = [what for kind, what in acknowledged if kind == "begun"] or ["run"]
    history = History(disk)
    history.walk(*begun)
    kept = {what for kind, what in acknowledged if kind == "shard"}
    assert not kept & set(history.made), "an acknowledged shard was made again"
    done = [("commit", (name, key)) for name in ("run", "fork") if name in begun for key in SHARDS]
    check_reading(disk, [*done, *([("result", None)] if "result" in begun else [])])


def record(disk: Path, patch: pytest.MonkeyPatch, drop: str = "") -> Recorder:
    disk.mkdir()
    recorder = Recorder(disk, drop)
    with patch.context() as patched:
        patched.setattr(durable, "operations", recorder)
        History(disk, recorder.acknowledge).walk("run", "fork", "removal", "result")
    return recorder


def violation(recorder: Recorder, folder: Path, counts: Counts, points: Iterable[int], most: int = FEW) -> str:
    """The first thing wrong with any state; empty when there is none."""
    folder.mkdir()
    for number, (tree, acknowledged) in enumerate(crash_states(recorder.events, most, counts, points)):
        disk = folder / f"{number:05d}"
        write_tree(disk, tree)
        try:
            check_reading(disk, acknowledged)
            check_going_on(disk, acknowledged)
        except (AssertionError, SelfplayError, OSError) as error:
            return f"state {number}: {type(error).__name__}: {error}"
    return ""


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("most", "num_states"), [(FEW, 350), pytest.param(MOST, 850, marks=pytest.mark.chaos)])
def test_no_crash_state_is_misread_or_loses_what_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, num_states: int
) -> None:
    recorder, counts = record(tmp_path / "disk", monkeypatch), Counts()
    assert sorted(recorder.sites) == sorted([*NEEDED, *HARMLESS])
    assert violation(recorder, tmp_path / "states", counts, range(len(recorder.events) + 1), most) == ""
    assert counts.states > num_states, "docs/reliability.md says how many there are"


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("site", NEEDED)
def test_every_fsync_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: str) -> None:
    recorder = record(tmp_path / "disk", monkeypatch, site)
    # from both ends to the middle: most violations are soon found there
    first, last = recorder.first_dropped, len(recorder.events)
    points = sorted(range(first, last + 1), key=lambda point: min(point - first, last - point))
    assert violation(recorder, tmp_path / "states", Counts(), points)
