"""Stage *train*: one DPO (or SimPO) round on the kept pairs, in a trainer's own scratch; its policy is sealed and adopted here.

A round that kept no pair carries the policy over by reference. Two in a row stop the run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.commands import shell_command
from selfplay.core.errors import BackendError, DivergedError, EmptyRoundsError, Interrupted, RuinedPolicyError
from selfplay.core.outcomes import PairOutcome, SampleOutcome, SelectOutcome, Training, TrainOutcome
from selfplay.core.protocols import StepMetrics, TrainJob, TrainLimits, TrainPair, TrainResult
from selfplay.core.train_pairs import SCHEMA, write_pairs
from selfplay.execution.reporter import Progress
from selfplay.run.stages.context import Policy, StageContext, derive_seed
from selfplay.run.stages.engine_logps import dtypes
from selfplay.run.stages.kept_logprobs import training_logprobs
from selfplay.run.stages.rows import prompt_rows, row_numbers
from selfplay.selection.arrays import Floats, Ints
from selfplay.store.disk_errors import disk_full_error, is_disk_error
from selfplay.store.lazy_table import RowReader
from selfplay.store.manifest import FileEntry, policy_digest
from selfplay.store.writer import StageWriter

NUM_CANARIES = 4
# Longer than two blocks of the engine's prefix cache: a shorter prompt would not be cached, and a stale cache not be seen.
CANARY_TOKENS = 80
# In the trainer's scratch.
PAIRS_FILE = "pairs.arrow"
# Pairs whose tokens are in memory at a time.
BLOCK_PAIRS = 10_000


def run(context: StageContext, round_number: int) -> None:
    """Write a round's policy (`policy/`, and `engine/` where the engine has another dtype) and how it was trained."""
    started = time.monotonic()
    policy = context.trained_policy(round_number)
    writer = context.writer(round_number, "train", made_with=dtypes(context))
    kept = _kept_pairs(context, round_number, writer)
    if not len(kept.pair_id):
        _check_not_stuck(context, round_number)
        previous = context.policy(round_number - 1)
        context.reporter.say(
            f"round {round_number}: no pair was kept; the policy of round {previous.round} is carried over"
        )
        skipped = TrainOutcome(
            skipped=True, policy_round=previous.round, policy_digest=previous.digest, optimizer_steps=0
        )
        context.commit(writer, started, skipped)
        return
    scratch = context.store.scratch(round_number)
    for name in ("policy", "engine"):
        writer.discard(name)
    try:
        pairs = write_pairs(scratch / PAIRS_FILE, _blocks(context, round_number, kept))
    except OSError as error:
        if not is_disk_error(error):
            raise
        raise disk_full_error(scratch, error) from error
    result = _train(context, _job(context, round_number, pairs, policy, scratch), round_number)
    pairs.close()
    written = [FileEntry(file.path, file.num_bytes, file.sha256) for file in result.files]
    adopted = []
    for name in ("policy", "engine"):
        if (scratch / "output" / name).is_dir():
            files = [entry for entry in written if entry.path.startswith(f"{name}/")]
            adopted += writer.adopt_folder(scratch / "output" / name, name, files or None)
    outcome = TrainOutcome(
        skipped=False,
        policy_round=round_number,
        policy_digest=policy_digest(adopted),
        optimizer_steps=result.optimizer_steps,
        training=Training.of(result, len(kept.pair_id), kept.num_lost),
    )
    context.commit(writer, started, outcome)
    context.store.drop_scratch(round_number)


@dataclass(frozen=True, slots=True)
class _KeptPairs:
    """The P kept pairs of all rounds that are trained on, by pair id. `round_P` is the round of each, `*_row_P` are rows of that
    round's tables, `logps` (P values by the names of TrainPair) are under this round's models. `num_lost` kept pairs have no
    log-probs now, because a response of theirs killed its worker, and are left out."""

    pair_id: pa.Array
    round_P: Ints
    prompt_row_P: Ints
    chosen_row_P: Ints
    rejected_row_P: Ints
    logps: dict[str, Floats]
    num_lost: int


def _kept_pairs(context: StageContext, round_number: int, writer: StageWriter) -> _KeptPairs:
    store, sides = context.store, ("chosen", "rejected")
    logprobs, given_up = training_logprobs(context, round_number, writer)
    scored = logprobs["response_id"].combine_chunks()
    pair_ids, columns, num_lost = [pa.array([], pa.string())], [], 0
    for number in context.data_rounds(round_number):
        names = ["pair_id", "prompt_id", "chosen_response_id", "rejected_response_id", "kept"]
        kept = store.table(number, "select", columns=names)
        kept = kept.filter(kept["kept"])
        found = {side: pc.index_in(kept[f"{side}_response_id"], value_set=scored) for side in sides}
        has_both = pc.and_(*(pc.is_valid(found[side]) for side in sides))
        # those of this round are not kept without log-probs, but the pass over kept pairs may lose some
        lost = (pc.is_in(kept[f"{side}_response_id"], value_set=given_up) for side in sides)
        explained = pc.or_(has_both, pc.or_(*lost))
        assert number != round_number or pc.all(explained, min_count=0).as_py(), "a kept pair has no log-probs"
        num_all = kept.num_rows
        kept = kept.filter(has_both)
        num_lost += num_all - kept.num_rows
        pair_ids += kept["pair_id"].chunks
        sampled = store.table(number, "sample", columns=["response_id"])["response_id"]
        rows = {side: row_numbers(kept[f"{side}_response_id"], sampled) for side in sides}
        logp_row = {side: found[side].filter(has_both).to_numpy() for side in sides}
        columns.append(
            {
                "round": np.full(kept.num_rows, number),
                "prompt": prompt_rows(context, number, kept["prompt_id"]),
                **rows,
                **{f"{side} logp": logp_row[side] for side in sides},
            }
        )
    if num_lost:
        context.reporter.say(
            f"round {round_number} train: {num_lost} kept pairs are left out: a response of theirs is quarantined"
        )
    pair_id = pa.concat_arrays(pair_ids)
    order = pc.sort_indices(pair_id)
    joined = {name: np.concatenate([each[name] for each in columns])[order.to_numpy()] for name in columns[0]}
    logps = {
        f"{model}_{side}": logprobs[model].to_numpy()[joined[f"{side} logp"]]
        for model in ("policy_logp", "reference_logp")
        for side in sides
    }
    return _KeptPairs(
        pair_id.take(order), joined["round"], joined["prompt"], joined["chosen"], joined["rejected"], logps, num_lost
    )


def _blocks(context: StageContext, round_number: int, pairs: _KeptPairs) -> Iterator[pa.Table]:
    """The pairs with their token ids, BLOCK_PAIRS at a time."""
    readers = {
        number: (
            RowReader(context.store.lazy_table(number, "prompts"), ["prompt_token_ids"]),
            RowReader(context.store.lazy_table(number, "sample"), ["token_ids"]),
        )
        for number in context.data_rounds(round_number)
    }
    for start in range(0, len(pairs.pair_id), BLOCK_PAIRS):
        block = slice(start, start + BLOCK_PAIRS)
        parts, places = [], []
        for number, (prompts, responses) in readers.items():
            here = start + np.flatnonzero(pairs.round_P[block] == number)
            if not len(here):
                continue
            rows = np.concatenate([pairs.chosen_row_P[here], pairs.rejected_row_P[here]])
            token_ids = responses.take(rows)["token_ids"]
            columns = {
                "pair_id": pairs.pair_id.take(pa.array(here)),
                "prompt_token_ids": prompts.take(pairs.prompt_row_P[here])["prompt_token_ids"],
                "chosen_token_ids": token_ids.slice(0, len(here)),
                "rejected_token_ids": token_ids.slice(len(here)),
                **{name: pa.array(values_P[here], from_pandas=True) for name, values_P in pairs.logps.items()},
            }
            parts.append(pa.table({name: columns[name] for name in SCHEMA.names}).cast(SCHEMA))
            places.append(here)
        yield pa.concat_tables(parts).take(pa.array(np.argsort(np.concatenate(places), kind="stable")))


def _check_not_stuck(context: StageContext, round_number: int) -> None:
    if round_number > 1 and context.store.outcome(round_number - 1, TrainOutcome).skipped:
        store = context.store
        funnel = {
            "responses": store.outcome(round_number, SampleOutcome).num_responses,
            "unused": store.outcome(round_number, PairOutcome).unused_reasons,
            "pairs": store.outcome(round_number, PairOutcome).num_pairs,
            "dropped": store.outcome(round_number, SelectOutcome).summary.drop_reasons,
        }
        raise EmptyRoundsError(
            f"rounds {round_number - 1} and {round_number} kept no pair; the funnel of round {round_number}: {funnel}",
            "Look at the responses (`selfplay show RUN ROUND`). The most frequent reason says what to change.",
        )


def _job(
    context: StageContext, round_number: int, pairs: Sequence[TrainPair], policy: Policy, scratch: Path
) -> TrainJob:
    training, gates = context.settings.training, context.settings.gates
    reference = context.reference_policy(round_number)
    return TrainJob(
        pairs=pairs,
        policy_dir=policy.folder,
        output_dir=str(scratch / "output"),
        checkpoint_dir=str(scratch / "checkpoints"),
        seed=derive_seed(context.settings.seed, "train", round_number),
        loss=training.loss,
        beta=training.beta,
        gamma_beta_ratio=training.simpo_gamma_beta_ratio,
        learning_rate=training.learning_rate,
        epochs=training.epochs,
        max_steps=training.max_steps,
        batch_size=training.batch_size,
        micro_batch_size=training.micro_batch_size or training.batch_size,
        micro_batch_tokens=training.micro_batch_tokens,
        max_length=context.inputs.max_length,
        warmup_ratio=training.warmup_ratio,
        schedule=training.schedule,
        precision=context.devices.precision,
        engine_dtype=context.devices.engine_dtype,
        checkpoint_every=training.checkpoint_every,
        reference_is_policy=reference is not None and reference.digest == policy.digest,
        lora=training.lora.model_dump() if training.lora else None,
        gradient_checkpointing=training.gradient_checkpointing,
        trl=dict(training.trl),
        limits=TrainLimits(gates.max_loss, gates.max_grad_norm, gates.max_update),
        canary_prompts=canary_prompts(pairs, context.inputs.max_length),
        stop_file=str(context.store.stop_file(round_number)),
        keep_checkpoints=context.settings.keep_trainer_checkpoints,
    )


def canary_prompts(pairs: Sequence[TrainPair], max_length: int) -> list[list[int]]:
    """Token sequences to compare engine and trainer on: prompts with their chosen responses, strung together until they are
    long enough to be in the engine's prefix cache."""
    prompts = []
    for first in range(min(NUM_CANARIES, len(pairs))):
        tokens: list[int] = []
        for pair in islice(pairs, first, None):
            tokens += pair.prompt_token_ids + pair.chosen_token_ids
            if len(tokens) >= CANARY_TOKENS:
                break
        prompts.append(tokens[: max(CANARY_TOKENS, len(pairs[first].prompt_token_ids))][: max_length // 2])
    return prompts


def _train(context: StageContext, job: TrainJob, round_number: int) -> TrainResult:
    """Train in the worker. A stop that is asked for is handed on: the trainer seals a checkpoint first. A trainer that died and
    was begun again goes on from its last checkpoint: steps after that come again."""
    result: TrainResult | None = None
    progress: Progress | None = None
    asked = False
    said: set[str] = set()
    trainer, done = context.workers.trainer, 0

    def hand_on_a_stop() -> None:
        nonlocal asked
        if context.stop.exit_code is not None and not asked:
            context.store.request_stop(round_number)
            asked = True

    try:
        for event in trainer.run_streaming("train", job, meanwhile=hand_on_a_stop):
            for line in trainer.drain_events():
                context.reporter.say(
                    f"round {round_number} train: {line}; the training continues from its last checkpoint"
                )
            if isinstance(event, StepMetrics):
                if progress is None:
                    progress = context.reporter.begin(
                        f"round {round_number} train", event.num_steps, event.step - 1, "steps"
                    )
                if event.step > done:
                    progress.advance(1, f"loss {event.loss:.4f}")
                    context.on_step(round_number, event)
                    done = event.step
                hand_on_a_stop()
            elif isinstance(event, str):
                context.reporter.say(f"round {round_number} train: {event}")
                said.add(event)
            else:
                result = event
    except DivergedError as diverged:
        gentler = context.settings.training.learning_rate / (10 if isinstance(diverged, RuinedPolicyError) else 2)
        rate = f"training.learning_rate={gentler:g}"
        fork = shell_command("fork", context.store.layout.root, "--from-round", round_number - 1, rate)
        diverged.hint += (
            " The settings of a training cannot change within a run. A fork shares the rounds before this one: "
            f"`{fork}`."
        )
        raise
    except Interrupted as stopped:
        context.reporter.say(f"round {round_number} train: {stopped.message}")
        context.stop.check()
        raise
    except (BackendError, OSError) as error:
        if not is_disk_error(error):
            raise
        raise disk_full_error(Path(job.output_dir).parent, error) from error
    finally:
        if progress is not None:
            progress.end()
    assert result is not None, "a trainer's stream ends with its result"
    for note in (note for note in result.notes if note not in said):
        context.reporter.say(f"round {round_number} train: {note}")
    return result
