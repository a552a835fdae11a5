"""Stages that a run took over from another one as they were committed there (`fork`, `compare`).

RUN.json's `forked_from` names the other run and, for each stage, the digest of its commit. The folders are hard-linked, or
copied where linking fails: committed files are never written to again, so two runs may share them, and either may be removed.
The chain holds as it is, since commits name their inputs by digest.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict

from selfplay.core.errors import CorruptionError, SelfplayError
from selfplay.core.parse_record import STRICT
from selfplay.core.stages import STAGE_NAMES
from selfplay.store import durable
from selfplay.store.commits import check_stage, read_commit
from selfplay.store.layout import Layout, StageName, parse_stage_name
from selfplay.store.manifest import Digest
from selfplay.store.symlinks import forbid_symlinks_below


@dataclass(frozen=True, slots=True)
class Fork:
    """Where inherited stages come from. `root` is the other run's folder, relative to this run's; `stages` maps "ROUND/STAGE"
    (as in "001/sample") to the digest of its commit. `changes` are the settings that `selfplay fork` changed, as
    {"name", "before", "after"}. Example: Fork("9f2c...", "../pool", {"000/prompts": "ab12..."})"""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    run: str
    root: str
    stages: dict[StageName, Digest]
    changes: tuple[dict[str, Any], ...] = ()

    def keys(self) -> dict[tuple[int, str], str]:
        """(round, stage) -> digest of its commit, in the order in which a run makes them: nothing is taken over before what
        it was made from."""
        found = {parse_stage_name(name): digest for name, digest in self.stages.items()}
        return dict(sorted(found.items(), key=lambda item: (item[0][0], STAGE_NAMES.index(item[0][1]))))


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
                f"{layout.root} shares round {number} {stage} of {source.root}, which does not have it",
                "Restore that run at its place, or delete this one and fork again.",
            )
        forbid_symlinks_below(folder, source.root)
        commit, found = read_commit(folder)
        check_stage(folder, commit, found)
        if found != digest:
            raise CorruptionError(
                f"{folder} is another commit than the one that {layout.root} was forked from",
                f"Remove {layout.root} and fork again from what is there now.",
            )
        work = layout.work / f".tmp-inherit-{number:03d}-{stage}"
        durable.discard(work)  # left by a kill
        durable.link_tree(folder, work)
        check_stage(work, commit, found)  # a gc may have been at work there
        durable.publish_folder(work, layout.stage(number, stage))
        taken.append((number, stage))
    return taken
