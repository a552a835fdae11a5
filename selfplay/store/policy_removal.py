"""Deleting a policy (`gc`): write the tombstone, rename the folders into `.work/`, delete them. Needs the run's lock.

A crash at any point leaves either the whole policy without a tombstone, or a tombstone: then what is still there is deleted by
the next `finish_deletion` (at each resume and each gc), and no reader minds it.
"""

from __future__ import annotations

from dataclasses import asdict

from selfplay.core.errors import ConfigError
from selfplay.store import durable
from selfplay.store.commits import check_stage, read_commit
from selfplay.store.layout import REMOVED, Layout, rounds_present
from selfplay.store.manifest import write_manifest
from selfplay.store.symlinks import forbid_symlinks
from selfplay.store.tombstone import STAGE, Tombstone, policy_files, read_tombstone


def delete_policy(layout: Layout, round_number: int, when: str, why: str) -> Tombstone:
    """Delete the policy of a round; returns its tombstone. Raises CorruptionError if it differs from its commit."""
    folder = layout.stage(round_number, STAGE)
    forbid_symlinks(layout.work, layout.root)
    commit, digest = read_commit(folder)
    tombstone = read_tombstone(folder, commit.files, digest)
    if tombstone is None:
        check_stage(folder, commit, digest)  # damage is to be reported, not deleted
        files = policy_files(commit.files)
        if not files:
            raise ConfigError(f"round {round_number} of {layout.root} trained no policy", "There is nothing to delete.")
        tombstone = Tombstone(digest, files, when, why)
        write_manifest(folder / REMOVED, asdict(tombstone), files)
    _delete_files(layout, round_number, tombstone)
    return tombstone


def finish_deletion(layout: Layout) -> None:
    """Complete an interrupted deletion: delete files that a tombstone lists and that still exist."""
    for number in rounds_present(layout):
        folder = layout.stage(number, STAGE)
        for path in durable.temporaries(folder, REMOVED):
            durable.discard(path)
        if (folder / REMOVED).is_file():
            commit, digest = read_commit(folder)
            tombstone = read_tombstone(folder, commit.files, digest)
            if tombstone is not None:
                _delete_files(layout, number, tombstone)


def _delete_files(layout: Layout, round_number: int, tombstone: Tombstone) -> None:
    for name in tombstone.folders:
        path = layout.stage(round_number, STAGE) / name
        if path.exists():
            trash = layout.work / f".trash-{round_number:03d}-{name}"
            durable.discard(trash)
            durable.publish_folder(path, trash)
            durable.discard(trash)
