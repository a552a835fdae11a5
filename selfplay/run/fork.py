"""`selfplay fork`: a new run that shares the committed rounds 0 to N of another one and continues with other settings.

Nothing is copied where the file system can link. The shared commits keep the fingerprint of the settings that they were made
with; what makes them the new run's own is RUN.json, which names each by digest. `config/inherited.json` holds those settings, so
that every reader judges a round by what it was made with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from selfplay.config.diff import Change, changes
from selfplay.config.schema import Config
from selfplay.core.commands import shell_command
from selfplay.core.errors import ConfigError, DriftError
from selfplay.core.machine import DeviceFacts
from selfplay.core.outcomes import TrainOutcome
from selfplay.core.stages import stages_of
from selfplay.inputs.resolve import Inputs
from selfplay.run.allowed_changes import changed_pins, held_out_notes, last_whole_round, refusals
from selfplay.run.code_trust import check_policy_code, require_trust
from selfplay.run.driver import Prepared, preflight
from selfplay.run.find_again import find_again
from selfplay.store.durable import pretty_json
from selfplay.store.fork import Fork
from selfplay.store.layout import stage_name
from selfplay.store.run import Store
from selfplay.store.run_state import INHERITED, config_in_force, settings_by_round


@dataclass(frozen=True)
class Forking:
    """A fork that may begin: everything that can be checked has been."""

    source: Store
    from_round: int
    prepared: Prepared
    changes: list[Change]
    changed_content: list[str]
    notes: list[str]

    def shared(self) -> list[tuple[int, str]]:
        """The (round, stage) that the new run takes over."""
        return [(number, stage) for number in range(self.from_round + 1) for stage in stages_of(number)]

    def lineage(self) -> Fork:
        """For the new run's RUN.json."""
        told = tuple({"name": change.name, "before": change.before, "after": change.after} for change in self.changes)
        return self.source.fork_to(self.prepared.run_dir, self.shared(), told)

    def files(self) -> dict[str, bytes]:
        """More files for the new run's `config/`: the settings of the rounds it shares."""
        before = settings_by_round(self.source)
        inherited = [item for item in before if item["last"] < self.from_round]
        own = next((item["config"] for item in before if self.from_round <= item["last"]), None)
        inherited.append({"last": self.from_round, "config": own or config_in_force(self.source)})
        return {INHERITED: pretty_json(inherited)}

    def given(self) -> str:
        """The YAML that the other run was started with."""
        return self.source.config_file("given.yaml").decode("utf-8", "replace")

    def overrides(self, new: Sequence[str]) -> list[str]:
        """Those of the other run, then the new ones."""
        return [*self.source.config_json("overrides.json", list), *new]

    def document(self) -> dict[str, Any]:
        """The document of `fork --dry-run --json`."""
        files = [entry for key in self.shared() for entry in self.source.commit_of(*key).files]
        gone = [number for number in range(1, self.from_round + 1) if self.source.tombstone(number)]
        return {
            "schema_version": 1,
            "source": str(self.source.layout.root),
            "run": str(self.prepared.run_dir),
            "from_round": self.from_round,
            "rounds": self.prepared.config.rounds,
            "shared": [stage_name(number, stage) for number, stage in self.shared()],
            "shared_files": len(files),
            "shared_bytes": sum(entry.num_bytes for entry in files),
            "policies_gone": gone,
            "changes": [asdict(change) for change in self.changes],
            "changed_content": self.changed_content,
            "notes": self.notes,
            "plan": self.prepared.plan.document(),
        }

    def lines(self) -> list[str]:
        """Human-readable lines: what is shared, what changes, and what is planned."""
        document = self.document()
        what = "round 0" if self.from_round == 0 else f"rounds 0 to {self.from_round}"
        first, last = self.from_round + 1, self.prepared.config.rounds
        size = f"{document['shared_bytes'] / 1e6:.1f} MB"
        return [
            f"shared: {what} of {document['source']} ({len(document['shared'])} stages, {document['shared_files']} files, "
            f"{size}; as links where the file system has them)",
            *(f"changed: {change.name}: {change.before} -> {change.after}" for change in self.changes),
            *(f"changed: the content of {name}" for name in self.changed_content),
            *(f"note: {note}" for note in self.notes),
            f"then: round {first}" + (f" to {last}" if last > first else ""),
            *self.prepared.plan.lines(),
        ]


def prepare_fork(
    source: Store,
    from_round: int,
    before: Config,
    after: Config,
    search_path: Path,
    run_dir: Path,
    *,
    command: Sequence[object] = (),
    overrides: Sequence[str] = (),
    trust_code: bool = False,
    force: bool = False,
    say: Callable[[str], None] = lambda line: None,
    device: DeviceFacts | None = None,
) -> Forking:
    """Check that a fork of `source` with the settings `after` may begin at `run_dir`. `command` are the arguments of the command
    that asks for it, for hints, and `overrides` the settings among them; see `code_trust.require_trust` for `trust_code`. `say`
    is told the code that will run; see `driver.preflight` for `device`.

    Everything is compared before any code of the run is loaded. Raises ConfigError for a round that cannot be forked from and for
    code that is not trusted, DriftError for settings that cannot change, MissingInputError."""
    _check_round(source, from_round, after)
    pins = source.config_json("pins.json", dict)
    _refuse(source, refusals(changes(before, after), {}, {}, from_round, before))  # before what may be gone is read
    pinned = find_again(source, before, after, search_path, command)
    new_pins, found = pinned.pins, changes(before, pinned.config)
    _refuse(source, refusals(found, pins, new_pins, from_round, before))
    check_policy_code(source, pinned)
    require_trust(source.run_id, source.layout.root, pinned.code, command, named=overrides, trust_code=trust_code)
    prepared = preflight(
        pinned.config,
        pinned.search_path,
        run_dir,
        source,
        rounds_done=from_round,
        force=force,
        pinned=pinned,
        say=say,
        device=device,
    )
    _check_lengths(source, from_round, prepared.config, prepared.inputs)
    own = [change for change in found if change.tag != "content" or change.name in changed_pins(pins, new_pins)]
    content = [name for name in changed_pins(pins, new_pins) if name not in {change.name for change in own}]
    return Forking(source, from_round, prepared, own, content, held_out_notes(found, before))


def _refuse(source: Store, lines: list[str]) -> None:
    if lines:
        raise DriftError(
            f"a fork of {source.layout.root} cannot change\n    " + "\n    ".join(lines),
            "Start another run with these settings; it can begin from a policy of this one "
            "(policy.model=RUN/rounds/NNN/train/policy).",
        )


def _check_round(source: Store, from_round: int, after: Config) -> None:
    root, last = source.layout.root, last_whole_round(source)
    if last is None:
        raise ConfigError(
            f"{root} has no complete round to fork from", f"`{shell_command('resume', root)}` continues it."
        )
    if from_round > last:
        raise ConfigError(
            f"round {from_round} of {root} is not complete; the last complete one is round {last}",
            f"Fork from round {last} or an earlier one, or continue the run first: {shell_command('resume', root)}",
        )
    if from_round >= after.rounds:
        raise ConfigError(
            f"rounds is {after.rounds}: after the shared rounds 0 to {from_round} nothing is left to do",
            f"Set rounds={from_round + 1} or more, or fork from an earlier round.",
        )
    mark = _removed(source, from_round)
    if mark is not None:
        there = [number for number in range(last + 1) if _removed(source, number) is None]
        raise ConfigError(
            f"the policy of round {from_round} of {root} was deleted on {mark.removed} ({mark.why}): round "
            f"{from_round + 1} cannot sample from it",
            f"Rounds that can be forked from: {', '.join(map(str, there))}. (storage.keep_policies=all keeps every policy.)",
        )


def _removed(source: Store, number: int) -> Any:
    """The mark of the policy after a round, that of an earlier round where training was skipped."""
    while number and (trained := source.outcome(number, TrainOutcome).policy_round) != number:
        number = trained
    return source.tombstone(number) if number else None


def _check_lengths(source: Store, from_round: int, after: Config, inputs: Inputs) -> None:
    """Shared rows must still fit: the held-out prompts, and with accumulated data the pairs that were kept."""
    prompts = source.table(0, "prompts", columns=["num_prompt_tokens", "drop_reason"])
    longest = pc.max(prompts.filter(pc.is_null(prompts["drop_reason"]))["num_prompt_tokens"]).as_py() or 0
    if after.evaluation is not None and longest > inputs.evaluation_prompt_limit:
        raise DriftError(
            f"a held-out prompt of the shared round 0 has {longest} tokens; with these settings "
            f"{inputs.evaluation_prompt_limit} are left for one",
            "Raise sampling.engine.max_model_len, or lower sampling.max_tokens.",
        )
    if after.training.data != "accumulated":
        return
    for number in range(1, from_round + 1):
        lengths = source.table(number, "prompts", columns=["prompt_id", "num_prompt_tokens"])
        columns = ["prompt_id", "num_tokens_chosen", "num_tokens_rejected", "kept"]
        pairs = source.table(number, "select", columns=columns)
        pairs = pairs.filter(pairs["kept"]).join(lengths, "prompt_id")
        responses = pc.max_element_wise(pairs["num_tokens_chosen"], pairs["num_tokens_rejected"])
        longest = pc.max(pc.add(responses, pairs["num_prompt_tokens"])).as_py() or 0
        if longest > inputs.max_length:
            raise DriftError(
                f"a kept pair of the shared round {number} has {longest} tokens, more than training.max_length "
                f"{inputs.max_length}, and training.data: accumulated trains on it again",
                "Raise training.max_length, or set training.data: latest.",
            )
