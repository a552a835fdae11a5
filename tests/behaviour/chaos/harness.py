"""From outside: send a command to be killed, and see what the files say afterwards.

A `Case` is one run (or selection, or report) in a folder of its own, with the notes of all commands that worked at it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from selfplay.core.errors import ConfigError
from selfplay.core.stages import stage_named
from selfplay.inspect.documents.status import status_document
from selfplay.inspect.verify.verify import verify_document
from selfplay.store.commits import check_stage, read_commit
from selfplay.store.durable import sha256_file
from selfplay.store.run import Store
from tests.behaviour.chaos.chaos_workers import IN_FLIGHT

ROOT = Path(__file__).resolve().parents[3]
# A stop that is asked for once finishes what is under way; everything else may come anywhere.
GRACEFUL = (("TERM",), ("INT",), ("TERM", "TERM"))
CHECKPOINT_EVERY = 2
# What differs from attempt to attempt in what a stage says of itself.
OF_THE_ATTEMPT = {
    "seconds", "timing", "adopted_shards", "sampling_seconds", "num_tokens_sampled", "weight_changes", "steps",
    "resumed_from_step", "notes",
}  # fmt: skip


@dataclass(frozen=True)
class Kill:
    """Signals at the `occurrence`-th time that a failpoint is reached, and `then` more, `later` failpoints after it."""

    label: str
    occurrence: int
    signals: tuple[str, ...]
    then: tuple[str, ...] = ()
    later: int = 0

    def words(self) -> str:
        """For people."""
        then = f", {self.later} failpoints later {' '.join(self.then)}" if self.then else ""
        return f"{' '.join(self.signals)} at '{self.label}' ({self.occurrence}.){then}"

    def request(self) -> dict[str, Any]:
        """For the child."""
        return {**self.__dict__, "signals": list(self.signals), "then": list(self.then)}


@dataclass
class Tally:
    """What has been done, to be said at the end."""

    kills: Counter[tuple[str, str]] = field(default_factory=Counter)  # (command, signals)
    points: Counter[str] = field(default_factory=Counter)  # where they came
    seen: set[str] = field(default_factory=set)
    redone_shards: Counter[int] = field(default_factory=Counter)  # a kill's -> how often
    redone_steps: Counter[int] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        """A table."""
        signals = sorted({name for _, name in self.kills})
        rows = [["", *signals, "all"]]
        for command in sorted({name for name, _ in self.kills}):
            counts = [self.kills[command, name] for name in signals]
            rows.append([command, *map(str, counts), str(sum(counts))])
        sums = [sum(count for (_, name), count in self.kills.items() if name == wanted) for wanted in signals]
        rows.append(["all", *map(str, sums), str(sum(sums))])
        widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        places = len(self.seen | set(self.points))
        lines.append(f"{places} different failpoints seen, {len(self.points)} of them killed at")
        for what, counts in (("shards", self.redone_shards), ("training steps", self.redone_steps)):
            if counts:
                most = "; ".join(f"{number}: {count} runs" for number, count in sorted(counts.items()))
                lines.append(f"{what} done again, by run: {most}")
        return lines


TALLY = Tally()


class Zygote:
    """The process from which commands are forked (zygote.py)."""

    def __init__(self, world: Path) -> None:
        self._log = open(world / "zygote.log", "w")  # noqa: SIM115 - for the life of the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.behaviour.chaos.zygote", str(world)], cwd=ROOT,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, start_new_session=True,
        )  # fmt: skip

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Fork a command and wait for its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, Path(self._log.name).read_text()[-3000:]
        return dict(json.loads(answer))

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._log.close()


@dataclass
class Outcome:
    """How a command ended: its exit code (negative: by that signal), the signals that were sent, and what it noted."""

    code: int
    sent: tuple[str, ...]
    at: str
    notes: list[list[Any]]
    output: str


class Case:
    """A folder `root` in which commands work; notes and output lie beside it. `sabotage`: the store writes in place."""

    def __init__(self, zygote: Zygote, root: Path) -> None:
        self.zygote, self.root = zygote, root
        self.root.mkdir(parents=True, exist_ok=True)
        self._notes = root.with_name(f"{root.name}.notes")
        self._output = root.with_name(f"{root.name}.output")
        self.notes: list[list[Any]] = []
        self.crashes = 0
        self.sabotage = False

    def command(
        self, *arguments: str | Path, kill: Kill | None = None, shots: Sequence[tuple[float, str]] = ()
    ) -> Outcome:
        """Run `selfplay ARGUMENTS` in `root`, killed at a failpoint or by `shots` (seconds, signal) from outside."""
        self._output.touch()
        start = self._output.stat().st_size
        answer = self.zygote.ask(
            {
                "arguments": [str(argument) for argument in arguments],
                "root": str(self.root),
                "notes": str(self._notes),
                "output": str(self._output),
                "kill": kill.request() if kill else None,
                "sabotage": self.sabotage,
                "shots": [{"after": after, "signal": name} for after, name in shots],
            }
        )
        with open(self._output, encoding="utf-8", errors="replace") as file:
            file.seek(start)
            output = file.read()
        assert not answer["timed_out"], f"{arguments} did not end\n{output[-2000:]}"
        text = self._notes.read_text() if self._notes.exists() else ""  # a random kill may come before the first note
        notes = [json.loads(line) for line in text.splitlines()]
        fresh, self.notes = notes[len(self.notes) :], notes
        sent = tuple(note[1] for note in fresh if note[0] == "signal")
        at = next((note[2] for note in fresh if note[0] == "signal"), "")
        if shots and answer["code"] != 0:
            sent, at = tuple(name for _, name in shots), "a random time"
        if not self.sabotage:
            TALLY.seen |= {note[1] for note in fresh if note[0] == "point"}
        if sent:
            TALLY.kills[str(arguments[0]), "+".join(sent)] += 1
            TALLY.points[at] += 1
            if answer["code"] not in (130, 143) or sent not in GRACEFUL:
                self.crashes += 1
        return Outcome(answer["code"], sent, at, fresh, output)

    def points(self) -> list[str]:
        """Failpoints in the order in which they were reached."""
        return [note[1] for note in self.notes if note[0] == "point"]


def check_exit_code(outcome: Outcome, *, handled: bool) -> None:
    """`handled`: the command handles SIGTERM itself once it has begun (a run, a selection)."""
    code, sent = outcome.code, outcome.sent
    if not sent:
        allowed = {0}
    elif "KILL" in sent:
        # a KILL that follows a TERM may find the process ended
        allowed = {-9, 143} if sent[0] != "KILL" else {-9}
    elif "TERM" in sent:
        allowed = {143, -15, 0}  # -15: before the handler stands, which is 143 to a shell; 0: it was just done
        if "INT" in sent:
            allowed |= {130}  # Ctrl-C while the end is written down, after the handlers were given back
    else:
        allowed = {130, 0, -2}  # -2: before the command began, which is 130 to a shell
    assert code in allowed, f"exit code {code} after {sent} at {outcome.at}\n{outcome.output[-3000:]}"
    assert handled or code != 143
    assert "unexpected" not in outcome.output, outcome.output[-3000:]
    assert "Traceback" not in outcome.output, outcome.output[-3000:]


# ---------------------------------------------------------------------------------------------------------------- runs


def rows_of(run: Path) -> dict[str, Any]:
    """What a run has committed, as far as two runs of one configuration agree: tables by digest, policies, counts."""
    store, found = Store.open(run), {}
    for number in store.rounds():
        for folder in sorted(store.layout.stage(number, "x").parent.iterdir()):
            commit = store.commit_of(number, folder.name)
            metrics = store.outcome(number, stage_named(folder.name).outcome).to_json()
            found[f"{number:03d}/{folder.name}"] = {
                "files": {
                    entry.path: entry.sha256
                    for entry in commit.files
                    if entry.rows is not None or entry.path.startswith("policy/")
                },
                "metrics": {name: value for name, value in metrics.items() if name not in OF_THE_ATTEMPT},
            }
    return found


def shards_of(run: Path) -> dict[str, str]:
    """Every shard that is kept, committed or in work: "ROUND/STAGE/PLACE" -> sha256 of what is there."""
    found = {}
    for sidecar in [*run.glob(".work/[0-9]*/**/.part-*.json"), *run.glob("rounds/*/*/**/.part-*.json")]:
        part = sidecar.with_name(sidecar.stem[1:] + ".parquet")
        parts = part.relative_to(run).parts
        name = "/".join(parts[1:]) if parts[0] == "rounds" else "/".join([parts[1].replace("-", "/", 1), *parts[2:]])
        found[name] = sha256_file(part)
    return found


def check_acknowledged(case: Case, run: Path) -> None:
    """Every shard and commit that was said to be kept is there, and is the one that was kept."""
    shards = shards_of(run)
    for kind, name, digest in (note for note in case.notes if note[0] in ("kept", "committed")):
        if kind == "kept":
            assert shards.get(name) == digest, f"the shard {name} was kept and is lost"
        else:
            commit, found = read_commit(run / "rounds" / name)
            assert found == digest, f"the commit of {name} is another one"
            check_stage(run / "rounds" / name, commit, found, digests=True)


def check_readers(run: Path, whole: dict[str, Any]) -> None:
    """Whatever can be read is whole: every stage folder that stands has exactly the rows of the undisturbed run."""
    for folder in sorted(run.glob("rounds/*/*")):
        name = "/".join(folder.parts[-2:])
        wanted = whole[name]["files"]
        parts = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.parquet")}
        assert {place: sha256_file(path) for place, path in parts.items()} == {
            place: digest for place, digest in wanted.items() if place.endswith(".parquet")
        }, f"half of {name} can be read"
        visible = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if folder.name not in ("train",):
            # load_dataset reads all visible files of the folder as one table
            assert all(place.endswith(".parquet") for place in visible), visible
            assert pq.read_table(folder, partitioning=None).num_rows >= 0


def state_of(run: Path) -> str:
    """As `status` says it; "none" where no run was made yet."""
    try:
        return str(status_document(run)["state"])
    except ConfigError as error:
        assert "interrupted" in error.message or "does not exist" in error.message or "is not a run" in error.message
        return "none"


def check_crash_state(case: Case, run: Path, whole: dict[str, Any], complete: bool) -> str:
    """What must hold wherever the driver was killed; returns the state."""
    state = state_of(run)
    if state == "none":
        assert not any(note[0] in ("kept", "committed") for note in case.notes)
        return state
    store = Store.open(run)
    # a fork has its shared rounds before its first attempt
    begun = store.forked_from is None or bool(store.attempt_documents())
    assert state == ("complete" if complete else "interrupted" if begun else "not begun")
    document = verify_document(run, deep=True)
    assert document["ok"], document["problems"]
    check_acknowledged(case, run)
    check_readers(run, whole)
    return state


def leftovers(root: Path) -> list[str]:
    """Temporary files and scratch."""
    found = [path for path in root.rglob("*") if re.match(r"\.?(tmp|trash)\b", path.name) or path.name.endswith(".tmp")]
    found += [path for path in root.glob("**/.work/*") if path.name != "lock"]
    return sorted(path.relative_to(root).as_posix() for path in found)


def check_complete(case: Case, run: Path, whole: dict[str, Any], num_roles: int = 1) -> None:
    """The end of a run that was killed on the way: the rows of the undisturbed one, and little was done twice. `num_roles`:
    how many kinds of workers are asked at the same time."""
    assert state_of(run) == "complete"
    assert rows_of(run) == whole
    assert leftovers(run) == []
    assert verify_document(run, deep=True)["ok"]
    calls = Counter((note[1], note[2]) for note in case.notes if note[0] == "call" and note[1] != "trainer.train")
    again = sum(count - 1 for count in calls.values())
    assert again <= num_roles * IN_FLIGHT * case.crashes, f"{again} shards done again after {case.crashes} kills"
    steps = Counter(note[1] for note in case.notes if note[0] == "step")
    steps_again = sum(count - 1 for count in steps.values())
    assert steps_again <= CHECKPOINT_EVERY * case.crashes, f"{steps_again} steps done again"
    TALLY.redone_shards[again] += 1
    TALLY.redone_steps[steps_again] += 1
