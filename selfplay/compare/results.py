"""The results of a comparison: a row for each block, arm and round, and a summary (OUT/results.json)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from selfplay.compare.reading import GOLD, REWARD, RunReader
from selfplay.compare.running import ArmRun, arm_runs, failure
from selfplay.compare.settings import Comparison
from selfplay.compare.statistics import Mean, mean_of, over_worlds, overlap, paired_by_prompt
from selfplay.inspect.reading import finite
from selfplay.store.layout import is_run

SCHEMA_VERSION = 1
Row = dict[str, Any]

# numbers of the rows that are averaged over blocks
AVERAGED = (
    "gold_mean", "gold_greedy_mean", "reward_mean", "difference", "difference_greedy", "num_tokens_mean",
    "truncated_fraction", "distinct_fraction", "distinct_2", "optimizer_steps", "num_kept", "reward_gain", "gold_gain",
    "over_optimization", "wrong_labels", "tied_labels",
)  # fmt: skip


def results_document(comparison: Comparison, out: Path) -> dict[str, Any]:
    """What is committed of a comparison, so far. Raises CorruptionError, and ConfigError for an unknown column of `by`."""
    runs = [run for run in arm_runs(comparison, out) if is_run(run.folder)]
    readers = {run: RunReader(run.folder) for run in runs}
    judge = _judge(readers.values())
    rows = [row for run in runs for row in _rows(run, readers, comparison, judge)]
    failed = [
        {**_names(run), "rounds_done": len(readers[run].rounds()) - 1, "reason": reason}
        for run in runs
        if not _complete(readers[run], comparison.rounds) and (reason := failure(readers[run].store)) is not None
    ]
    done = sum(_complete(readers[run], comparison.rounds) for run in runs)
    document = {
        "schema_version": SCHEMA_VERSION,
        "control": comparison.control,
        "judge": "gold" if judge == GOLD else "reward",
        "worlds": [world.name for world in comparison.worlds],
        "num_seeds": comparison.num_seeds,
        "rounds": comparison.rounds,
        "equal": list(comparison.equal),
        "steps": {world.name: comparison.steps(world) for world in comparison.worlds},
        "arms": [{"name": arm.name, "overrides": list(arm.overrides)} for arm in comparison.arms],
        "num_runs": len(arm_runs(comparison, out)),
        "num_done": done,
        "failed": failed,
        "summary": _summary(rows, comparison),
        "overlap": _overlaps(runs, readers, comparison),
        "by": comparison.by,
        "groups": _groups(runs, readers, comparison) if comparison.by else [],
        "rows": rows,
    }
    return dict(finite(document))


def _complete(reader: RunReader, rounds: int) -> bool:
    return reader.store.is_committed(rounds, "evaluate")


def _judge(readers: Iterable[RunReader]) -> str:
    """The column that judges: gold, or where no run has one the reward that was trained on."""
    found = [reader.evaluated(0, "sampled", GOLD) for reader in readers if reader.rounds()]
    return GOLD if not found or any(found) else REWARD


def _names(run: ArmRun) -> Row:
    return {
        "block": run.block.name, "world": run.block.world.name, "seed": run.block.seed, "arm": run.arm.name,
        "equal": run.equal,
    }  # fmt: skip


def _rows(run: ArmRun, readers: dict[ArmRun, RunReader], comparison: Comparison, judge: str) -> Iterable[Row]:
    reader = readers[run]
    of_control = (run.block, run.equal, comparison.control)
    controls = [readers[other] for other in readers if (other.block, other.equal, other.arm.name) == of_control]
    for number in reader.rounds():
        row = {**_names(run), "round": number, **reader.row(number)}
        against = [one for one in controls if one is not reader and number in one.rounds()]
        for mode, name in (("sampled", "difference"), ("greedy", "difference_greedy")):
            found: Mean | None = None
            for control in against:
                theirs = control.evaluated(number, mode, judge)
                found = paired_by_prompt(reader.evaluated(number, mode, judge), theirs)
            row[name] = found.mean if found else None
            row[f"{name}_low"] = found.low if found else None
            row[f"{name}_high"] = found.high if found else None
        yield row


def _summary(rows: list[Row], comparison: Comparison) -> list[Row]:
    """For each budget, arm and round: every number's mean over blocks, and the difference's over worlds too."""
    found = []
    for equal in comparison.equal:
        for arm in comparison.arms:
            for number in range(comparison.rounds + 1):
                mine = [row for row in rows if (row["equal"], row["arm"], row["round"]) == (equal, arm.name, number)]
                if not mine:
                    continue
                summed: Row = {"equal": equal, "arm": arm.name, "round": number, "num_blocks": len(mine)}
                for name in AVERAGED:
                    mean = mean_of([row[name] for row in mine if row[name] is not None])
                    summed[name] = asdict(mean) if mean else None
                paired = [row for row in mine if row["difference"] is not None]
                by_world = over_worlds([row["difference"] for row in paired], [row["world"] for row in paired])
                summed["difference_over_worlds"] = asdict(by_world) if by_world else None
                found.append(summed)
    return found


def _round_one(run: ArmRun, readers: dict[ArmRun, RunReader], comparison: Comparison) -> bool:
    """Whether a run has chosen from the shared pool; one budget will do, they choose alike."""
    return run.equal == comparison.equal[0] and readers[run].store.is_committed(1, "select")


def _overlaps(runs: list[ArmRun], readers: dict[ArmRun, RunReader], comparison: Comparison) -> list[Row]:
    """What each two arms kept in common of the first round's pool, averaged over blocks."""
    kept = {run: readers[run].kept(1) for run in runs if _round_one(run, readers, comparison)}
    found = []
    for arm in comparison.arms:
        for other in comparison.arms:
            if arm.name == other.name:
                continue
            each = [
                common
                for run, ours in kept.items()
                if run.arm == arm
                for against, theirs in kept.items()
                if against.arm == other and against.block == run.block and (common := overlap(ours, theirs)) is not None
            ]
            if each:
                found.append(
                    {
                        "arm": arm.name,
                        "other": other.name,
                        "jaccard": sum(common.jaccard for common in each) / len(each),
                        "share": sum(common.share for common in each) / len(each),
                        "num_blocks": len(each),
                    }
                )
    return found


def _groups(runs: list[ArmRun], readers: dict[ArmRun, RunReader], comparison: Comparison) -> list[Row]:
    """Share of each group of prompts among the pairs that an arm kept in round 1 and among all its pairs, over blocks."""
    assert comparison.by is not None
    found = []
    for arm in comparison.arms:
        each = [
            readers[run].group_shares(1, comparison.by)
            for run in runs
            if run.arm == arm and _round_one(run, readers, comparison)
        ]
        for group in sorted({name for _, pool in each for name in pool}):
            kept, pool = ([pair[side].get(group, 0.0) for pair in each] for side in (0, 1))
            found.append(
                {
                    "arm": arm.name,
                    "group": group,
                    "kept": sum(kept) / len(each),
                    "pool": sum(pool) / len(each),
                    "num_blocks": len(each),
                }
            )
    return found
