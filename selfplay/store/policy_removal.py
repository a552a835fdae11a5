"""Taking a policy away (`gc`): mark first, then rename into `.work/`, then remove. Needs the run's lock.

A crash at any point leaves either the whole policy without a mark, or a mark: then what is still there is removed by the next
`finish_deletion` (at each resume and each gc), and no reader minds it.
"""

from __future__ import annotations

from selfplay.store import durable
from selfplay.store.commits import check_shape, read_commit
from selfplay.store.layout import REMOVED, Layout, rounds_present
from selfplay.store.symlinks import forbid_symlinks
from selfplay.store.tombstone import STAGE, Tombstone, read_tombstone, tombstone_for


def delete_policy(layout: Layout, round_number: int, when: str, why: str) -> Tombstone:
    """Take away the policy of a round; returns the mark. Raises CorruptionError where it is not what was committed."""
    folder = layout.stage(round_number, STAGE)
    forbid_symlinks(folder, layout.root)
    forbid_symlinks(layout.work, layout.root)
    commit, digest = read_commit(folder)
    mark = read_tombstone(folder, commit, digest)
    if mark is None:
        check_shape(folder, commit, digest)  # what is not whole is an injury to be seen, not to be removed
        mark = tombstone_for(commit, digest, when, why)
        durable.write_file(folder / REMOVED, durable.json_with_checksum(mark.to_json()))
    _empty(layout, round_number, mark)
    return mark


def finish_deletion(layout: Layout) -> None:
    """Complete what a crash interrupted: remove what a mark says was taken and that is still there."""
    for number in rounds_present(layout):
        folder = layout.stage(number, STAGE)
        durable.discard(folder / f".tmp-{REMOVED.lstrip('.')}")  # half a mark
        if (folder / REMOVED).is_file():
            mark = read_tombstone(folder, *read_commit(folder))
            if mark is not None:
                _empty(layout, number, mark)


def _empty(layout: Layout, round_number: int, mark: Tombstone) -> None:
    for name in mark.folders:
        path = layout.stage(round_number, STAGE) / name
        if path.exists():
            trash = layout.work / f".trash-{round_number:03d}-{name}"
            durable.discard(trash)
            durable.publish_folder(path, trash)
            durable.discard(trash)
