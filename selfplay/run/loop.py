"""The loop: which stages a round has, and the walk over them. What is committed is passed over; everything else runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from selfplay.run.disk_estimate import check_room
from selfplay.run.stages import evaluate, logprobs, pair, prompts, sample, score, select, train
from selfplay.run.stages.context import Context

Stage = Callable[[Context, int], None]

ROUND: dict[str, Stage] = {
    "prompts": prompts.run,
    "sample": sample.run,
    "score": score.run,
    "pair": pair.run,
    "logprobs": logprobs.run,
    "select": select.run,
    "train": train.run,
    "evaluate": evaluate.run,
}
LAST = "evaluate"
# Round 0 is the starting policy: it has only an evaluation.
FIRST: dict[str, Stage] = {"prompts": prompts.run, "evaluate": evaluate.run}


def plan(rounds: int) -> Iterator[tuple[int, str, Stage]]:
    """Every (round, stage name, stage) of a run, in order."""
    for number in range(rounds + 1):
        for name, stage in (ROUND if number else FIRST).items():
            yield number, name, stage


def run(
    context: Context,
    on_stage: Callable[[int, str], None],
    until: tuple[int, str] | None = None,
    on_round: Callable[[int], None] = lambda number: None,
) -> None:
    """Walk to the end of the plan, or to the stage `until`. `on_stage` is called as each stage begins, `on_round` when a round's
    last stage is committed."""
    for number, name, stage in plan(context.config.rounds):
        if not context.store.is_committed(number, name):
            context.stop.check()
            on_stage(number, name)
            check_room(context, number, name)
            stage(context, number)
            if name == LAST:
                on_round(number)
        if (number, name) == until:
            return
