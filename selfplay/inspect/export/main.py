"""`export`: what is exported, checked, written; a hub export is a folder that is then uploaded.

Files are checked against their commits' digests before they are read. The folder is made beside its place and appears there in
one step; the same command again replaces an earlier export of the same run.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from selfplay.config.anonymize import neutral, neutral_place
from selfplay.config.load import looks_like_path
from selfplay.core.commands import shell_command
from selfplay.core.errors import ConfigError
from selfplay.core.outcomes import TrainOutcome
from selfplay.inspect.documents.rounds import round_summaries
from selfplay.inspect.export import cards
from selfplay.inspect.export.control_text import ControlTextCount
from selfplay.inspect.export.other_trainers import FORMATS, write_format
from selfplay.inspect.export.tables import exported_schema, pairs
from selfplay.inspect.reading import SCHEMA_VERSION, require_round, settings_for_others
from selfplay.store import durable
from selfplay.store.layout import part_name
from selfplay.store.result_folder import ResultWriter, read_result
from selfplay.store.run import Store
from selfplay.store.run_state import config_in_force, is_selection

HUB = "hf://"
Policies = Literal["last", "all", "none"]
# of at most `tables.BATCH_ROWS` rows each: a million together
_BATCHES_IN_FILE = 64
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to export. `to` is a folder or hf://org/name; `rounds` empty: all that have pairs; `format` None: a dataset."""

    to: str
    rounds: tuple[int, ...] = ()
    policies: Policies = "last"
    format: str | None = None
    public: bool = False


@dataclass(frozen=True, slots=True)
class Exported:
    """The result of an export: pairs by round and split, rounds whose policy was exported, why others were not, and places."""

    folder: str
    rounds: dict[int, dict[str, int]]
    policies: list[int]
    notes: list[str] = field(default_factory=list)
    repositories: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The document of `export --json`."""
        return {
            "schema_version": SCHEMA_VERSION,
            "folder": self.folder,
            "rounds": [{"round": number, **counts} for number, counts in self.rounds.items()],
            "policies": self.policies,
            "repositories": self.repositories,
            "notes": self.notes,
        }


def export(store: Store, wanted: Wanted) -> Exported:
    """Write the export, and upload it where `to` is on the hub. Raises ConfigError, CorruptionError, SelfplayError."""
    if wanted.format is not None and wanted.format not in FORMATS:
        raise ConfigError(f"--format {wanted.format!r} is unknown", f"Use one of {', '.join(FORMATS)}.")
    if wanted.public and not wanted.to.startswith(HUB):
        raise ConfigError("--public needs --to hf://ORG/NAME", "Remove --public: it is about a repository on the hub.")
    rounds = _rounds(store, wanted.rounds)
    if not wanted.to.startswith(HUB):
        return _write(store, wanted, rounds, Path(wanted.to), Path(wanted.to).name)
    from selfplay.inspect.export import hub

    if wanted.format is not None:
        raise ConfigError("--format writes a folder", "Give --to DIR, or leave --format out.")
    repository = hub.repository_name(wanted.to.removeprefix(HUB))
    with tempfile.TemporaryDirectory(prefix="selfplay-export-") as staging:
        folder = Path(staging) / "export"
        written = _write(store, wanted, rounds, folder, repository)
        uploaded = hub.upload(
            folder, repository, [cards.config_name(number) for number in written.policies], wanted.public
        )
        return replace(written, folder=wanted.to, repositories=uploaded)


def _rounds(store: Store, asked: Sequence[int]) -> list[int]:
    for number in asked:
        require_round(store, number, "select")
    found = list(asked) or [number for number in store.rounds() if number and store.is_committed(number, "select")]
    if not found:
        raise ConfigError(
            f"{store.layout.root} has no round with selected pairs yet",
            f"`{shell_command('status', store.layout.root)}` shows how far it is.",
        )
    if is_selection(store) and not all(store.is_committed(number, "prompts") for number in found):
        folder = store.layout.root.parent
        raise ConfigError(
            f"{folder} is a selection from a table of numbers: there are no texts to export",
            f"The pairs are in {folder / 'kept'} and {folder / 'dropped'}, as Parquet files.",
        )
    return sorted(set(found))


def _write(store: Store, wanted: Wanted, rounds: list[int], root: Path, dataset: str) -> Exported:
    _check_target(store, root)
    for number in rounds:
        store.require(number, "select")
        store.require(number, "prompts")
    partial = root.absolute().with_name(f".{root.absolute().name}.partial")
    durable.remove_tree(partial)  # a kill left it
    writer = ResultWriter(partial, partial / ".work")
    counts: dict[int, dict[str, int]] = {}
    notes: list[str] = []
    policies: dict[int, str] = {}
    if wanted.format is not None:
        counts, notes = write_format(writer, store, rounds, wanted.format)
    else:
        typed = ControlTextCount()
        for number in rounds:
            counts[number] = {
                name: _write_split(writer, store, number, name, typed.of(pairs(store, number, kept=name == "kept")))
                for name in ("kept", "dropped")
            }
        policies, notes = _policies(store, wanted.policies)
        notes += typed.notes()
        identities = {number: cards.content_identity(writer, cards.config_name(number)) for number in rounds}
        facts = replace(_facts(store, root, dataset, counts, identities, policies), notes=typed.notes())
        for number, digest in policies.items():
            _write_policy(writer, store, facts, number, digest)
        writer.add(cards.RECIPE, cards.recipe(facts).encode())
        writer.add("README.md", cards.dataset_card(facts).encode())
    writer.commit({"kind": "export", "run": store.run_id, "format": wanted.format})
    durable.remove_tree(partial / ".work")
    durable.remove_tree(root.absolute())
    durable.publish_folder(partial, root.absolute())
    return Exported(str(root), counts, list(policies), notes)


def _check_target(store: Store, root: Path) -> None:
    """The folder must be absent, empty, or an export of this run."""
    run = store.layout.root.resolve()
    if root.resolve() == run or run in root.resolve().parents:
        raise ConfigError(f"{root} is inside the run", "Export to a folder outside the run.")
    if root.is_symlink() or (root.exists() and not root.is_dir()):
        raise ConfigError(f"{root} is not a folder", "Give a folder that does not exist yet.")
    if not root.exists():
        return
    if not any(root.iterdir()):
        return
    commit = read_result(root)
    if commit is None or commit.facts.get("kind") != "export" or commit.facts.get("run") != store.run_id:
        raise ConfigError(f"{root} exists and is not an export of this run", "Give another folder, or remove this one.")


def _write_split(writer: ResultWriter, store: Store, number: int, name: str, tables: Iterator[pa.Table]) -> int:
    """One split of a round; returns its rows. A split without rows has no file: `load_dataset` fails on those."""
    rows = 0
    for part, first in enumerate(tables):
        file = itertools.chain([first], itertools.islice(tables, _BATCHES_IN_FILE - 1))
        path = f"{cards.config_name(number)}/{name}/{part_name(part)}"
        rows += writer.add_parquet(path, exported_schema(store), file, compression="zstd")
    return rows


def _policies(store: Store, which: Policies) -> tuple[dict[int, str], list[str]]:
    """Round -> digest of the policies that are exported, and why others are not."""
    if which == "none":
        return {}, []
    found: dict[int, str] = {}
    notes: list[str] = []
    trained = [number for number in store.rounds() if number and store.is_committed(number, "train")]
    for number in reversed(trained):
        outcome = store.outcome(number, TrainOutcome)
        folder = store.layout.stage(number, "train") / "policy"
        if outcome.skipped:
            notes.append(f"round {number} trained nothing: its policy is that of round {outcome.policy_round}")
        elif not any(folder.glob("*.safetensors")):
            notes.append(f"the policy of round {number} was deleted by gc")
        else:
            store.require(number, "train")
            found[number] = outcome.policy_digest
            if which == "last":
                break
    if not found:
        notes.append("there is no policy to export")
    return dict(sorted(found.items())), notes


def _write_policy(writer: ResultWriter, store: Store, facts: cards.Facts, number: int, digest: str) -> None:
    folder = store.layout.stage(number, "train") / "policy"
    target = f"policies/{cards.config_name(number)}"
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if path.is_symlink() or not path.is_file() or relative == "README.md":
            continue
        if relative == "config.json":
            # transformers writes the folder that a model was loaded from into it
            document = neutral(json.loads(path.read_bytes()))
            document.pop("_name_or_path", None)
            writer.add(f"{target}/{relative}", (json.dumps(document, indent=2) + "\n").encode())
        else:
            writer.add_pieces(f"{target}/{relative}", _pieces(path))
    writer.add(f"{target}/README.md", cards.model_card(facts, number, digest).encode())


def _pieces(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _facts(
    store: Store,
    root: Path,
    dataset: str,
    counts: dict[int, dict[str, int]],
    identities: dict[int, str],
    policies: dict[int, str],
) -> cards.Facts:
    settings = settings_for_others(store)
    base_model = str(config_in_force(store)["policy"]["model"] or "none")
    revisions = store.revisions()
    documents = store.attempt_documents()
    return cards.Facts(
        name=dataset.rpartition("/")[2],
        dataset=dataset,
        base_model=neutral_place(base_model),
        base_is_local=looks_like_path(base_model),
        run_id=store.run_id,
        settings=settings,
        from_dataset=is_selection(store),
        pins=store.config_json("pins.json", dict),
        revisions={name: neutral_place(str(revision)) for name, revision in revisions.items()},
        versions=documents[-1].get("versions", {}) if documents else {},
        rounds=round_summaries(store),
        splits=counts,
        identities=identities,
        policies=policies,
    )
