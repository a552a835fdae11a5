"""The loop over the stages of every round. Committed stages are skipped; all others run."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from selfplay.core.stages import LAST_STAGE, stage_named
from selfplay.run.overlap import groups, run_side_by_side
from selfplay.run.stages.context import StageContext


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
    refuse the stage), `on_round` when a round's last stage is committed. Stages that run side by side call them in threads of
    their own."""
    for number in range(rounds + 1):

        def run_stage(inside: StageContext, name: str, number: int = number) -> None:
            inside.stop.check()
            on_stage(number, name)
            check(number, name)
            function_of(name)(inside, number)

        for group in groups(number, context.workers.own_devices):
            last = until is not None and until[0] == number and until[1] in group
            names = group[: group.index(until[1]) + 1] if last and until is not None else group
            missing = [name for name in names if not context.store.is_committed(number, name)]
            if len(missing) > 1:
                run_side_by_side(context, number, missing, run_stage)
            elif missing:
                run_stage(context, missing[0])
            if LAST_STAGE in missing:
                on_round(number)
            if last:
                return
