"""Stages of a round that work side by side: which ones do, what keeps the others from it (in words, for the plan, the log and
`status`), and how they run: each in a thread of its own, reading the shards of those before it as they are made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

from selfplay.config.running import ClusterConfig
from selfplay.core.stages import STAGES, shard_inputs, stage_named, stages_of
from selfplay.execution.signals import StopFlag
from selfplay.execution.together import run_together
from selfplay.run.stages.context import StageContext
from selfplay.store.shard_feed import ShardFeed

# the roles of the stages that read each other's shards
ROLES = tuple(
    dict.fromkeys(
        role
        for stage in STAGES
        for name in (*shard_inputs(stage.name), *((stage.name,) if shard_inputs(stage.name) else ()))
        if (role := stage_named(name).role) is not None
    )
)


UNKNOWN = (
    "stages work side by side if their workers have devices of their own, which is known once the cluster is joined"
)


@dataclass(frozen=True, slots=True)
class Overlap:
    """`stages`: the groups of stages that work side by side; `text` says so, and why others take turns."""

    stages: list[list[str]]
    text: str


def groups(round_number: int, own_devices: Collection[str]) -> list[list[str]]:
    """The stages of a round, in order; those of one group may run side by side. A stage joins the group of the stage whose shards
    it reads if its workers have devices of their own, as those of the group have; `own_devices` are the roles of such workers."""
    found: list[list[str]] = []
    for name in stages_of(round_number):
        roles = {stage_named(each).role for each in (name, *(found[-1] if found else ()))} - {None}
        if found and {*shard_inputs(name)} & {*found[-1]} and roles <= {*own_devices}:
            found[-1].append(name)
        else:
            found.append([name])
    return found


def run_side_by_side(
    context: StageContext, round_number: int, stages: Sequence[str], run_stage: Callable[[StageContext, str], None]
) -> None:
    """Run these stages of a round, none of which is committed. `run_stage` runs one of them, in its thread. Raises what the first
    stage that failed raised; no stage sends a further shard then, and those that are open are finished and kept."""
    feeds = {(round_number, name): ShardFeed(round_number, name) for name in stages}
    stop = StopFlag(context.stop)
    inside = dataclasses.replace(context, stop=stop, feeds=feeds)

    def work(name: str) -> None:
        sources = [feeds[round_number, source] for source in shard_inputs(name) if (round_number, source) in feeds]
        # a stage begins with the first shard that it can read
        if all(source.wait() for source in sources):
            run_stage(inside, name)
        else:
            stop.check()

    run_together(
        {name: partial(work, name) for name in stages},
        stop,
        lambda name: context.reporter.say(
            f"round {round_number} {name} failed; the other stages finish and keep the shards in progress"
        ),
        lambda name: feeds[round_number, name].end(),
    )


def overlap_of(cluster: ClusterConfig, own_devices: Collection[str]) -> Overlap:
    """The overlap of a run; `own_devices` are the roles whose workers share no device with others."""
    found = [group for group in groups(1, own_devices) if len(group) > 1]
    lacking = [role for role in ROLES if role not in own_devices]
    text = "; ".join(f"{_listed(group)} work side by side" for group in found) or "stages take turns"
    if cluster.overlap is False:
        text += ": cluster.overlap is false"
    elif lacking:
        text += f"{';' if found else ':'} the workers of {_listed(lacking)} have no devices of their own"
    return Overlap(found, text)


def _listed(names: Collection[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
