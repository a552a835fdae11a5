"""Which engine computes the rewards of a model: `reward.engine`.

vLLM's pooling runner and transformers give the same rewards, as far as rounding goes. Whether they do is compared on a few
responses, once in an attempt and before the first reward is computed. What was seen is kept with the stage (hidden table
`.engines`), so that a resume goes on with the engine that it was begun with.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.config.reward import RewardSource
from selfplay.core.answer_schemas import ENGINES_SCHEMA
from selfplay.core.engine_check import EngineCheck, reward_bound
from selfplay.core.errors import BackendError
from selfplay.core.outcomes import RewardEngine
from selfplay.core.pool import Pool
from selfplay.core.protocols import ScoreItem
from selfplay.core.stages import ENGINES
from selfplay.execution.quarantine import QuarantinePolicy
from selfplay.execution.sharding import Shard, Shards, run_shards
from selfplay.run.stages.context import StageContext
from selfplay.store.writer import StageWriter

TRANSFORMERS, VLLM = "transformers", "vllm"


def choose_engine(
    context: StageContext,
    writer: StageWriter,
    pool: Pool,
    section: str,
    shards: Shards[ScoreItem],
    *,
    title: str,
    table: str,
) -> RewardEngine | None:
    """The engine for the reward of a section, whose rows are kept in `table`; None for a function. The first of its `shards` are
    compared where vLLM may be chosen.

    Raises BackendError where `vllm` is asked for and cannot compute these rewards, or computes others than transformers."""
    source = context.settings.reward.sources()[section]
    if source.model is None:
        return None
    if source.engine == TRANSFORMERS:
        return RewardEngine(TRANSFORMERS, f"{section}.engine is transformers")
    on_gpu = all(facts.has_gpu for facts in pool.devices())
    kept = f"{ENGINES}/{section.removeprefix('reward.parts.')}" if context.settings.reward.parts else ENGINES
    if source.engine == "auto" and not writer.shards(kept):
        if not on_gpu:
            return RewardEngine(TRANSFORMERS, "the reward model runs on a CPU, where auto does not ask vLLM")
        if writer.shards(table):
            return RewardEngine(TRANSFORMERS, "an earlier attempt, without a GPU, began with it")

    def judged(rows: pa.Table) -> RewardEngine:
        return _judge(rows, _dtype(source, on_gpu))

    def finish(_: int, rows: pa.Table) -> pa.Table:
        is_compared = pc.or_(pc.is_valid(rows["reward"]), pc.is_valid(rows["engine_reward"]))
        rows = rows.filter(is_compared).cast(ENGINES_SCHEMA)
        # before they are kept: a resume may find more memory
        if source.engine == VLLM and (found := judged(rows)).engine != VLLM:
            raise BackendError(
                f"{section}.engine is vllm, but {found.reason}",
                f"The worker's log has what vLLM printed. A fork from the previous round can set {section}.engine to auto or "
                "transformers.",
            )
        return rows

    if not writer.shards(kept):
        if (known := context.compared_engines.get(section)) is not None:
            writer.write_shard(0, known, kept)
        else:
            run_shards(
                context, writer, pool, "compare", first_by_index(shards), lambda shard: (list(shard),), finish,
                title=f"{title}, engines", unit="responses", table=kept, quarantine=_not_compared(context),
            )  # fmt: skip
    if not writer.shards(kept):
        return RewardEngine(TRANSFORMERS, "there was no response to compare")
    rows = writer.read_shard(0, kept)
    chosen = judged(rows)
    if section not in context.compared_engines:
        context.reporter.say(f"{title}: {chosen.engine} computes the rewards: {chosen.reason}")
    if rows.num_rows:
        context.compared_engines[section] = rows
    return chosen


def _judge(rows: pa.Table, dtype: str) -> RewardEngine:
    problems = rows["problem"].drop_null()
    if len(problems):
        return RewardEngine(TRANSFORMERS, f"vLLM cannot compute these rewards: {problems[0].as_py()}")
    if not rows.num_rows:
        return RewardEngine(TRANSFORMERS, "none of the responses that were to be compared can be scored")
    # NaN where only one of the two is a number
    exact, ours = (rows[name].to_numpy() for name in ("reward", "engine_reward"))
    errors = np.abs(ours - exact) / np.maximum(1.0, np.abs(exact))
    check = EngineCheck.of(errors.tolist(), *reward_bound(dtype))
    reason = f"on {check.num_responses} responses the rewards of vLLM and of transformers ({dtype}) {check.sentence()}"
    return RewardEngine(VLLM if check.passed else TRANSFORMERS, reason, check)


def _dtype(source: RewardSource, on_gpu: bool) -> str:
    return source.dtype if source.dtype != "auto" else ("bfloat16" if on_gpu else "float32")


def first_by_index(shards: Shards[ScoreItem]) -> Shards[ScoreItem]:
    """The first shard by index that has responses, as shard 0: which one is there first depends on time."""
    found: list[Shard[ScoreItem]] = []

    def indices() -> Iterator[int | None]:
        there: set[int] = set()
        next_index = 0
        for index in shards.indices():
            if index is None:
                yield None
                continue
            there.add(index)
            while next_index in there:
                if (shard := shards.shard(next_index)).items:
                    found.append(Shard(0, shard.items))
                    yield 0
                    return
                next_index += 1

    return Shards(indices, lambda _: found[-1], 0)


def _not_compared(context: StageContext) -> QuarantinePolicy[ScoreItem]:
    """A response that kills its worker is not compared; when it is scored it is quarantined."""
    return QuarantinePolicy(
        lambda item: item.response_id, lambda _, reason: ENGINES_SCHEMA.empty_table(), context.settings.max_poison_items
    )
