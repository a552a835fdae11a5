"""The loop: which stages a round has, and the walk over them. What is committed is passed over; everything else runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from selfplay.config.schema import Config
from selfplay.retention import collect
from selfplay.stages import evaluate, logprobs, pair, prompts, sample, score, select, train
from selfplay.stages.context import Context, Reporter
from selfplay.store.run import Store

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


def run(context: Context, on_stage: Callable[[int, str], None], until: tuple[int, str] | None = None) -> None:
    """Walk to the end of the plan, or to the stage `until`. `on_stage` is called as each stage begins."""
    for number, name, stage in plan(context.config.rounds):
        if not context.store.is_committed(number, name):
            context.stop.check()
            on_stage(number, name)
            stage(context, number)
            if name == LAST:
                tidy(context.store, context.config, context.reporter)
        if (number, name) == until:
            return


def tidy(store: Store, config: Config, reporter: Reporter) -> None:
    """After a round, and where a run goes on: take away the policies that `storage.keep_policies` lets go."""
    keep = config.storage.num_policies
    for held in collect(store, keep, f"storage.keep_policies: {keep}"):
        reporter.say(f"round {held.round}: its policy was taken away (storage.keep_policies: {keep} and the best)")
