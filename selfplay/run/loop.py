"""The loop: a walk over the stages of every round. What is committed is passed over; everything else runs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator

from selfplay.core.stages import LAST_STAGE, stage_named, stages_of
from selfplay.run.stages.context import StageContext


def plan(rounds: int) -> Iterator[tuple[int, str]]:
    """Every (round, stage) of a run, in order."""
    for number in range(rounds + 1):
        for name in stages_of(number):
            yield number, name


def function_of(stage: str) -> Callable[[StageContext, int], None]:
    """The function that runs a stage: it is given the run's context and the round."""
    module, _, name = stage_named(stage).function.partition(":")
    found: Callable[[StageContext, int], None] = getattr(importlib.import_module(module), name)
    return found


def run(
    context: StageContext,
    rounds: int,
    on_stage: Callable[[int, str], None],
    check: Callable[[int, str], None],
    until: tuple[int, str] | None = None,
    on_round: Callable[[int], None] = lambda number: None,
) -> None:
    """Walk to the end of the plan, or to the stage `until`. `on_stage` is called as each stage begins, `check` after it (it may
    refuse the stage), `on_round` when a round's last stage is committed."""
    for number, name in plan(rounds):
        if not context.store.is_committed(number, name):
            context.stop.check()
            on_stage(number, name)
            check(number, name)
            function_of(name)(context, number)
            if name == LAST_STAGE:
                on_round(number)
        if (number, name) == until:
            return
