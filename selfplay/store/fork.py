"""Stages that a run did not make but took over from another one, as they were committed there (`compare`).

RUN.json's `forked_from` names the other run and, for each stage, the digest of its commit. The folders are hard-linked, or
copied where linking fails: committed files are never written to again, so two runs may share them, and either may be removed.
The chain holds as it is, since commits name their inputs by digest.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfplay.core.errors import CorruptionError, SelfplayError
from selfplay.core.stages import STAGE_NAMES
from selfplay.store import durable
from selfplay.store.commits import check_shape, is_digest, parse_stage_name, read_commit
from selfplay.store.layout import Layout
from selfplay.store.symlinks import forbid_symlinks, symlinks_below


@dataclass(frozen=True, slots=True)
class Fork:
    """Where inherited stages come from. `root` is the other run's folder, relative to this run's; `stages` maps "ROUND/STAGE"
    (as in "001/sample") to the digest of its commit. `changes` are the settings that `selfplay fork` changed, as
    {"name", "before", "after"}. Example: Fork("9f2c...", "../pool", {"000/prompts": "ab12..."})"""

    run_id: str
    root: str
    stages: dict[str, str]
    changes: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As written in RUN.json."""
        changes = {"changes": list(self.changes)} if self.changes else {}
        return {"run": self.run_id, "root": self.root, "stages": self.stages, **changes}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Fork:
        """As read from RUN.json. Raises KeyError, TypeError or ValueError where it is not one."""
        if not isinstance(document, dict):
            raise TypeError("its lineage is no object")
        changes = tuple(document.get("changes", ()))
        fork = cls(str(document["run"]), str(document["root"]), dict(document["stages"]), changes)
        if not all(is_digest(digest) for digest in fork.keys().values()):
            raise ValueError("a digest in its lineage is none")
        if not all(isinstance(change, dict) and {"name", "before", "after"} <= change.keys() for change in changes):
            raise ValueError("a change in its lineage is none")
        return fork

    def keys(self) -> dict[tuple[int, str], str]:
        """(round, stage) -> digest of its commit, in the order in which a run makes them: nothing is taken over before what
        it was made from."""
        found = {parse_stage_name(name): digest for name, digest in self.stages.items()}
        return dict(sorted(found.items(), key=lambda item: (item[0][0], STAGE_NAMES.index(item[0][1]))))


def stage_name(round_number: int, stage: str) -> str:
    """How a stage is named in `forked_from` and in a commit's inputs."""
    return f"{round_number:03d}/{stage}"


def inherit(layout: Layout, fork: Fork) -> list[tuple[int, str]]:
    """Take over the stages of `fork` that are not here yet; returns them. Raises SelfplayError when the other run no longer has
    them, CorruptionError when it has others."""
    source = Layout(Path(os.path.normpath(layout.root / fork.root)))
    taken = []
    for (number, stage), digest in fork.keys().items():
        if layout.stage(number, stage).is_dir():
            continue
        folder = source.stage(number, stage)
        if not folder.is_dir():
            raise SelfplayError(
                f"{layout.root} is to take over round {number} {stage} from {source.root}, which does not have it",
                "Put that run back to where it was, or remove this one and start it again.",
            )
        for path in (folder, *symlinks_below(folder)):
            forbid_symlinks(path, source.root)
        commit, found = read_commit(folder)
        check_shape(folder, commit, found)
        if found != digest:
            raise CorruptionError(
                f"{folder} is another commit than the one that {layout.root} was forked from",
                f"Remove {layout.root} and start it again: it will take over what is there now.",
            )
        work = layout.work / f".tmp-inherit-{number:03d}-{stage}"
        durable.discard(work)  # a kill left it
        durable.link_tree(folder, work)
        check_shape(work, commit, found)  # a gc may have been at work there
        durable.publish_folder(work, layout.stage(number, stage))
        taken.append((number, stage))
    return taken
