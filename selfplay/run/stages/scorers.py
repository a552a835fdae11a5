"""The scorers of a stage: each is asked about every shard, side by side where they have devices of their own, else one after the
other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.answer_schemas import SCORES_SCHEMA
from selfplay.core.commands import shell_command
from selfplay.core.errors import BackendError
from selfplay.core.outcomes import RewardEngine
from selfplay.core.pool import Pool
from selfplay.core.protocols import ScoreItem
from selfplay.core.timing import DRIVER, Record, collecting, part, record
from selfplay.execution.quarantine import QuarantinePolicy
from selfplay.execution.sharding import Shards, run_shards
from selfplay.execution.signals import StopFlag
from selfplay.execution.together import run_together
from selfplay.run.stages.context import StageContext
from selfplay.run.stages.reward_engine import TRANSFORMERS, choose_engine
from selfplay.run.stages.rows import count_values
from selfplay.selection.reasons import REWARD_NOT_FINITE
from selfplay.store.writer import StageWriter

JUDGE = "evaluation.gold"

# A shard's index and its scores (response_id, reward, reward_NAME of each part, drop_reason; None: the shard has no
# responses) as the rows that the stage keeps.
Finish = Callable[[int, pa.Table | None], pa.Table]


@dataclass(frozen=True, slots=True)
class Scorer:
    """One of a stage's scorers: `section` is whose scores they are (JUDGE, or one of `RewardConfig.sources`), `table` where they
    are kept, as `keep` makes them. `on_kept` is called with the index of each shard that is there, `on_end` at the end."""

    title: str
    pool: Pool
    section: str
    shards: Shards[ScoreItem]
    table: str
    keep: Finish
    on_kept: Callable[[int], None] = lambda index: None
    on_end: Callable[[], None] = lambda: None


def run_scorers(context: StageContext, writer: StageWriter, scorers: Sequence[Scorer]) -> dict[str, RewardEngine]:
    """Ask every scorer about its shards. Returns what computed the rewards of each model, by its section. Raises BackendError if
    a scorer failed too often."""
    engines = dict[str, RewardEngine]()
    if len(scorers) == 1 or "scorer" not in context.workers.own_devices:
        for scorer in scorers:
            _ask(context, writer, scorer, engines)
            scorer.on_end()
        return engines
    stop, records, by_title = StopFlag(context.stop), dict[str, Record](), {scorer.title: scorer for scorer in scorers}
    inside = replace(context, stop=stop)

    def ask(scorer: Scorer) -> None:
        records[scorer.section] = collecting(context.on_loading)
        _ask(inside, writer, scorer, engines)

    with part("waiting"):
        run_together(
            {title: partial(ask, scorer) for title, scorer in by_title.items()}, stop,
            lambda title: context.reporter.say(f"{title} failed; the other scorers finish and keep the shards in progress"),
            lambda title: by_title[title].on_end(),
        )  # fmt: skip
    if (own := record()) is not None:
        for section, spent in records.items():
            own.include(spent, f"{DRIVER}, {section}")
    return engines


def _ask(context: StageContext, writer: StageWriter, scorer: Scorer, engines: dict[str, RewardEngine]) -> None:
    def checked(index: int, scores: pa.Table | None) -> pa.Table:
        if scores is not None:
            scores = only_numbers(scores)
            check_failures(context, scores, scorer.section)
        return scorer.keep(index, scores)

    asked: tuple[str, ...] = ()
    if scorer.section != JUDGE:
        found = choose_engine(
            context, writer, scorer.pool, scorer.section, scorer.shards, title=scorer.title, table=scorer.table
        )
        if found is not None:
            engines[scorer.section] = found
        # transformers is what a reward model has without being asked
        asked = () if found is None or found.engine == TRANSFORMERS else (found.engine,)
    quarantine = no_reward(context, batched=scorer.section in batched_sources(context))
    run_shards(
        context, writer, scorer.pool, "score", scorer.shards, lambda shard: (list(shard), *asked), checked,
        title=scorer.title, unit="responses", table=scorer.table, quarantine=quarantine, on_kept=scorer.on_kept,
    )  # fmt: skip


def batched_sources(context: StageContext) -> list[str]:
    """The sections of the rewards whose function is called once for each unit."""
    return [section for section, source in context.settings.reward.sources().items() if source.batched]


def no_reward(context: StageContext, *, batched: bool) -> QuarantinePolicy[ScoreItem]:
    """A response that kills its scorer has no reward, and the reason; so have, where the scorer is a batched function, the other
    responses of its unit."""

    def row(item: ScoreItem, reason: str) -> pa.Table:
        return pa.Table.from_pylist(
            [{"response_id": item.response_id, "reward": None, "drop_reason": reason}], schema=SCORES_SCHEMA
        )

    unit = (lambda item: item.unit) if batched else None
    return QuarantinePolicy(lambda item: item.response_id, row, context.settings.max_poison_items, unit)


def only_numbers(scores: pa.Table) -> pa.Table:
    """A scorer's answers with null, and a reason, in the place of rewards that are no finite numbers."""
    rewards = scores["reward"].cast(pa.float64())
    finite = pa.array(np.isfinite(rewards.to_numpy()))
    given = scores["drop_reason"].cast(pa.string())
    columns = {
        "reward": pc.if_else(finite, rewards, None),
        "drop_reason": pc.if_else(pc.or_(finite, pc.is_valid(given)), given, REWARD_NOT_FINITE),
    }
    return pa.table({name: columns.get(name, scores[name]) for name in scores.column_names})


def check_failures(context: StageContext, table: pa.Table, section: str) -> None:
    """Raise when more of a shard failed than `reward.max_failed` allows: a broken reward, or judge, must not eat a round.
    `section` is whose scores they are: JUDGE, or one of `RewardConfig.sources`."""
    reasons = count_values(table["drop_reason"].filter(pc.starts_with(table["drop_reason"], "reward_")))
    settings, num_failed = context.settings, sum(reasons.values())
    if not reasons or num_failed <= settings.reward.max_failed * table.num_rows:
        return
    common, count = Counter(reasons).most_common(1)[0]
    if section == JUDGE:
        function = settings.evaluation.gold if settings.evaluation else None
        name = f"the gold judge ({section})"
    else:
        function = settings.reward.sources()[section].function
        name = f"the reward ({section}.{'model' if function is None else 'function'})"
    root = context.store.layout.root
    enough = 0.5 if num_failed <= 0.5 * table.num_rows else 1.0
    raise BackendError(
        f"{name} failed for {num_failed} of {table.num_rows} responses of a shard; most often ({count}): {common}",
        f"If a service that it calls failed for a while, `{shell_command('resume', root)}` scores the rest. "
        + ("A changed function needs a new run, because its source is pinned. " if function is not None else "")
        + f"`{shell_command('resume', root, f'reward.max_failed={enough}')}` allows more failures.",
    )
