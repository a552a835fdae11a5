"""Stage *train*: one DPO (or SimPO) round on the kept pairs, in a trainer's own scratch; its policy is sealed and adopted here.

A round that kept no pair carries the policy over by reference. Two in a row stop the run.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from selfplay.core.errors import BackendError, DivergedError, EmptyRoundsError, Interrupted
from selfplay.core.outcomes import PairOutcome, SampleOutcome, SelectOutcome, Training, TrainOutcome
from selfplay.core.protocols import StepMetrics, TrainJob, TrainLimits, TrainPair, TrainResult
from selfplay.run.stages.context import Policy, StageContext, derive_seed
from selfplay.run.stages.prompts import admitted
from selfplay.store import durable
from selfplay.store.durable import canonical_json, sha256_bytes, sha256_file

NUM_CANARIES = 4
# Longer than two blocks of the engine's prefix cache: a shorter prompt would not be cached, and a stale cache not be seen.
CANARY_TOKENS = 80


def run(context: StageContext, round_number: int) -> None:
    """Write a round's policy (`policy/`, and `engine/` where the engine has another dtype) and how it was trained."""
    started = time.monotonic()
    policy = context.trained_policy(round_number)
    writer = context.writer(round_number, "train")
    pairs, num_lost = _pairs(context, round_number, context.data_rounds(round_number))
    if not pairs:
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
    result = _train(context, _job(context, round_number, pairs, policy, scratch), round_number)
    for name in ("policy", "engine"):
        if (scratch / "output" / name).is_dir():
            writer.adopt_folder(scratch / "output" / name, name)
    outcome = TrainOutcome(
        skipped=False,
        policy_round=round_number,
        policy_digest=_digest(writer.folder / "policy"),
        optimizer_steps=result.optimizer_steps,
        training=Training.of(result, len(pairs), num_lost),
    )
    context.commit(writer, started, outcome)
    context.store.drop_scratch(round_number)


def _pairs(context: StageContext, round_number: int, rounds: Sequence[int]) -> tuple[list[TrainPair], int]:
    """Kept pairs as token ids, with the log-probs of this round's models, by pair id; and how many pairs of earlier rounds have
    none now, for a response of theirs killed its worker (those of this round are not kept then)."""
    logprobs = {
        row["response_id"]: (row["policy_logp"], row["reference_logp"])
        for row in context.store.table(round_number, "logprobs").to_pylist()
    }
    pairs, num_lost = [], 0
    for number in rounds:
        prompts = {prompt.prompt_id: prompt.prompt_token_ids for prompt in admitted(context, number)}
        columns = ["pair_id", "prompt_id", "chosen_response_id", "rejected_response_id", "kept"]
        kept = context.store.table(number, "select", columns=columns)
        kept = kept.filter(kept["kept"])
        wanted = {*kept["chosen_response_id"].to_pylist(), *kept["rejected_response_id"].to_pylist()}
        responses = context.store.table(number, "sample", columns=["response_id", "token_ids"])
        names = responses["response_id"].to_pylist()
        tokens = {name: responses["token_ids"][row].as_py() for row, name in enumerate(names) if name in wanted}
        for pair in kept.to_pylist():
            chosen, rejected = pair["chosen_response_id"], pair["rejected_response_id"]
            if number != round_number and not {chosen, rejected} <= logprobs.keys():
                num_lost += 1
                continue
            pairs.append(
                TrainPair(
                    pair_id=pair["pair_id"],
                    prompt_token_ids=prompts[pair["prompt_id"]],
                    chosen_token_ids=tokens[chosen],
                    rejected_token_ids=tokens[rejected],
                    policy_logp_chosen=logprobs[chosen][0],
                    policy_logp_rejected=logprobs[rejected][0],
                    reference_logp_chosen=logprobs[chosen][1],
                    reference_logp_rejected=logprobs[rejected][1],
                )
            )
    if num_lost:
        context.reporter.say(
            f"round {round_number} train: {num_lost} pairs of earlier rounds are left out: a response of theirs is quarantined"
        )
    return sorted(pairs, key=lambda pair: pair.pair_id), num_lost


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
            "Look at the responses (`selfplay show RUN ROUND`): the reason that is most frequent says what to change.",
        )


def _job(context: StageContext, round_number: int, pairs: list[TrainPair], policy: Policy, scratch: Path) -> TrainJob:
    training = context.settings.training
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
        max_length=context.inputs.max_length,
        warmup_ratio=training.warmup_ratio,
        schedule=training.schedule,
        precision=context.precision,
        engine_dtype=context.engine_dtype,
        checkpoint_every=training.checkpoint_every,
        reference_is_policy=reference is not None and reference.digest == policy.digest,
        lora=training.lora.model_dump() if training.lora else None,
        gradient_checkpointing=training.gradient_checkpointing,
        trl=dict(training.trl),
        limits=TrainLimits(context.settings.gates.max_loss, context.settings.gates.max_grad_norm),
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
        for pair in pairs[first:]:
            tokens += pair.prompt_token_ids + pair.chosen_token_ids
            if len(tokens) >= CANARY_TOKENS:
                break
        prompts.append(tokens[: max(CANARY_TOKENS, len(pairs[first].prompt_token_ids))][: max_length // 2])
    return prompts


def _train(context: StageContext, job: TrainJob, round_number: int) -> TrainResult:
    """Train in the worker. A stop that is asked for is handed on: the trainer seals a checkpoint first. A trainer that died and
    was begun again goes on from its last checkpoint: steps after that come again."""
    result: TrainResult | None = None
    started = asked = False
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
                context.reporter.say(f"round {round_number} train: {line}; the round goes on from its last checkpoint")
            if isinstance(event, StepMetrics):
                if not started:
                    context.reporter.begin(f"round {round_number} train", event.num_steps, event.step - 1, "steps")
                    started = True
                if event.step > done:
                    context.reporter.advance(1, f"loss {event.loss:.4f}")
                    context.on_step(round_number, event)
                    done = event.step
                hand_on_a_stop()
            elif isinstance(event, str):
                context.reporter.say(f"round {round_number} train: {event}")
                said.add(event)
            else:
                result = event
    except DivergedError as diverged:
        gentler = f"`selfplay fork {context.store.layout.root} --from-round {round_number - 1}"
        diverged.hint += (
            " What a training is set to is part of what makes a run this run; a fork shares the rounds before this one: "
            f"{gentler} training.learning_rate={context.settings.training.learning_rate / 2:g}`."
        )
        raise
    except Interrupted as stopped:
        context.reporter.say(f"round {round_number} train: {stopped.message}")
        context.stop.check()
        raise
    except (BackendError, OSError) as error:
        if not durable.is_disk_error(error):
            raise
        raise durable.disk_full_error(Path(job.output_dir).parent, error) from error
    finally:
        if started:
            context.reporter.end()
    assert result is not None, "a trainer's stream ends with its result"
    for note in (note for note in result.notes if note not in said):
        context.reporter.say(f"round {round_number} train: {note}")
    return result


def _digest(folder: Path) -> str:
    """Identity of a policy's files: sha256 over names and contents."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return sha256_bytes(canonical_json([[path.relative_to(folder).as_posix(), sha256_file(path)] for path in files]))
