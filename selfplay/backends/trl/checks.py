"""Checks of a training (stage *train*): before the first update, that its model gives the log-probs in the table; after the last,
that the weights which the engine will load have changed and are finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from selfplay.backends.transformers.dropout import is_random
from selfplay.backends.trl.config import expected_first_loss
from selfplay.backends.trl.policy_files import load_policy
from selfplay.core.engine_check import LARGEST_FLOAT32, bound
from selfplay.core.errors import BackendError, DivergedError
from selfplay.core.heartbeat import beat
from selfplay.core.protocols import Canary, CanaryPosition, TrainJob

# First loss against its value at zero margin, relative to the larger of that value, beta and 1.
_LOSS_ERROR_FLOAT32 = 1e-3
_LOSS_ERROR_BF16 = 0.05
# Logits of the merged model against those of the model with adapters, relative, in float32.
_MERGE_ERROR = 1e-3
# Logits of a whole vocabulary are large: where a few positions are enough, these.
_NUM_TOKENS = 256
# Weights that are compared at a time: on a CPU they stay in its cache.
_PIECE = {"cpu": 1 << 16, "cuda": 1 << 24}
_TOP_K = 5


def num_checked_pairs(num_pairs: int) -> int:
    """How many of a training's pairs are held against the table before the first update, and measured after the last: an eighth,
    so that the checks cost a small part of the training, but 16 to 64 (all, if fewer)."""
    return min(num_pairs, max(16, min(64, num_pairs // 8)))


@dataclass(frozen=True, slots=True)
class StartCheck:
    """The trainer's own numbers before the first update against the table's; errors are |difference| / tokens
    of a response."""

    num_pairs: int
    loss: float
    expected_loss: float | None
    error_max: float
    error_mean: float


@dataclass(frozen=True, slots=True)
class WeightUpdate:
    """`norm`: L2 over all weights of final - starting, in float32 values; `ratio`: that over the norm of the
    starting weights; `changed_fraction`: weights whose value in the engine's dtype changed."""

    norm: float
    ratio: float
    changed_fraction: float


def check_start(trainer: Any, job: TrainJob, *, bf16: bool) -> StartCheck:
    """Compare the loaded policy's log-probs with `policy_logp_*` of `num_checked_pairs` pairs, and the
    loss against its value at zero margin.

    `bf16`: training runs under bf16 autocast, so single tokens vary and the mean is checked instead.
    Raises BackendError if they do not agree.
    """
    rows = trainer.row_order.shuffled()[: num_checked_pairs(len(job.pairs))]
    first = job.pairs[rows[0]]
    # adapters are the identity before the first update, their own dropout included
    if is_random(trainer.model, [*first.prompt_token_ids, *first.chosen_token_ids][:_NUM_TOKENS]):
        raise BackendError(
            f"the policy in {job.policy_dir} computes another function in training mode than in evaluation mode",
            "Its code has dropout or noise that no setting switches off: remove it from a copy of the model.",
        )
    loss, errors, worst = _hold_against_table(trainer, job, rows)
    if trainer.shares_prompts and not worst[0] <= LARGEST_FLOAT32:
        # the model mixes positions in another way than its config says, unless the table is wrong
        trainer.share_prompts(False)
        loss, errors, worst = _hold_against_table(trainer, job, rows)
    mean = math.fsum(errors) / len(errors)
    # a mixture of experts adds its load-balancing loss, whose value is not known beforehand
    expected = None if trainer.aux_loss_enabled else expected_first_loss(job)
    check = StartCheck(len(rows), loss, expected, worst[0], mean)
    what, allowed = bound("bf16" if bf16 else "float32")
    seen = mean if bf16 else worst[0]
    if not seen <= allowed:
        raise BackendError(
            f"the log-probs of the policy in {job.policy_dir} differ from policy_logp in the pairs: the {what} "
            f"difference is {seen:.3g} a token, {allowed:g} is allowed ({worst[1]})",
            "The table was made with another model or other token ids. Run the stage logprobs again with this policy.",
        )
    _check_loss(check, job, bf16=bf16)
    return check


def _hold_against_table(
    trainer: Any, job: TrainJob, rows: Sequence[int]
) -> tuple[float, list[float], tuple[float, str]]:
    """The loss of these rows, and how far the log-prob of each response is from the table (nats a token): all distances, and the
    largest with a description."""
    errors, worst = list[float](), (-1.0, "")
    measured = trainer.measure(rows)
    for row, chosen, rejected in zip(rows, measured.chosen_logps, measured.rejected_logps, strict=True):
        pair = job.pairs[row]
        for own, table, tokens in (
            (chosen, pair.policy_logp_chosen, pair.chosen_token_ids),
            (rejected, pair.policy_logp_rejected, pair.rejected_token_ids),
        ):
            error = abs(own - table) / len(tokens)
            # a NaN must not lose against a number
            if not error <= worst[0]:
                worst = (error, f"pair {pair.pair_id}: {own:.4f} here, {table:.4f} in the table, {len(tokens)} tokens")
            errors.append(error)
    return measured.loss, errors, worst


def _check_loss(check: StartCheck, job: TrainJob, *, bf16: bool) -> None:
    if check.expected_loss is None:
        if not math.isfinite(check.loss):
            raise BackendError(f"the loss before the first update is {check.loss}", "Lower training.beta.")
        return
    allowed = (_LOSS_ERROR_BF16 if bf16 else _LOSS_ERROR_FLOAT32) * max(1.0, job.beta, check.expected_loss)
    if not abs(check.loss - check.expected_loss) <= allowed:
        raise BackendError(
            f"the loss before the first update is {check.loss:.6f}; with the policy as reference it must be "
            f"{check.expected_loss:.6f} (within {allowed:.2g})",
            "reference_logp in the pairs is not that of the policy. Run the stage logprobs again.",
        )


def chosen_logps(trainer: Any, job: TrainJob) -> tuple[float, float]:
    """Mean log-prob (nats) of a token of the chosen responses of `num_checked_pairs` pairs: from the table, and under the
    trainer's weights."""
    rows = trainer.row_order.shuffled()[: num_checked_pairs(len(job.pairs))]
    pairs, after = [job.pairs[row] for row in rows], trainer.measure(rows, only_chosen=True).chosen_logps
    num_tokens = sum(len(pair.chosen_token_ids) for pair in pairs)
    return sum(pair.policy_logp_chosen for pair in pairs) / num_tokens, sum(after) / num_tokens


def measure_update(model: Any, job: TrainJob, *, trust_remote_code: bool = False) -> WeightUpdate:
    """Compare the trained (merged, float32) `model` with the starting policy, which is read again from disk.

    Raises BackendError when a weight is not a number, in float32 or in the engine's dtype, or when none changed in the engine's
    dtype.
    """
    engine_dtype = getattr(torch, job.engine_dtype)
    started = dict(load_policy(Path(job.policy_dir), trust_remote_code=trust_remote_code).named_parameters())
    squares, start_squares, changed, total = 0.0, 0.0, 0, 0
    for name, weight in model.named_parameters():
        beat()
        final = weight.detach().reshape(-1)
        start = started.pop(name).detach().to(final.device).reshape(-1)
        pieces = _PIECE[final.device.type]
        for after, before in zip(final.split(pieces), start.split(pieces), strict=True):
            difference = after - before
            square, start_square = float(difference.dot(difference)), float(before.dot(before))
            # the square of a value that bfloat16 does not hold is beyond float32 as well
            if not math.isfinite(square + start_square):
                raise DivergedError(
                    f"training left values in {name} that are not finite; the starting policy is kept",
                    "Lower training.learning_rate.",
                )
            squares += square
            start_squares += start_square
            changed += int(torch.count_nonzero(after.to(engine_dtype) != before.to(engine_dtype)))
        total += final.numel()
    assert not started, f"weights of the starting policy are missing: {sorted(started)[:5]}"
    if not changed:
        raise BackendError(
            f"training changed none of {total} weights in {job.engine_dtype}, the engine's dtype "
            f"(update norm {squares**0.5:.3g})",
            "Raise training.learning_rate, train more steps, or set policy.dtype: float32.",
        )
    return WeightUpdate(squares**0.5, (squares / start_squares) ** 0.5, changed / total)


def merge_adapters(model: Any, job: TrainJob) -> Any:
    """The policy with its trained LoRA adapters merged into the weights. Raises BackendError if that changes its logits by more
    than rounding: then the policy that is served would not be the one that was trained."""
    pair = job.pairs[0]
    token_ids = torch.tensor([[*pair.prompt_token_ids, *pair.chosen_token_ids][:_NUM_TOKENS]], device=model.device)
    model.eval()
    with torch.no_grad():
        trained = model(input_ids=token_ids, use_cache=False).logits.float()
        merged = model.merge_and_unload()
        error = merged(input_ids=token_ids, use_cache=False).logits.float() - trained
    relative = float(error.norm() / trained.norm())
    if math.isfinite(relative) and relative > _MERGE_ERROR:
        raise BackendError(
            f"merging the LoRA adapters into the policy changes its logits by {relative:.3g} of their size "
            f"({_MERGE_ERROR:g} is allowed)",
            "These adapters cannot be merged in this architecture: use training.lora.target_modules: all-linear.",
        )
    return merged


def check_saved(model: Any, folder: Path, *, trust_remote_code: bool = False) -> None:
    """Raises BackendError unless the policy in `folder` loads with the weights of the trained `model`, which was saved there."""
    saved = dict(load_policy(folder, trust_remote_code=trust_remote_code).named_parameters())
    for name, weight in model.named_parameters():
        beat()
        if name not in saved or not torch.equal(saved[name].detach(), weight.detach().float().cpu()):
            raise BackendError(
                f"the trained policy in {folder} does not load as it was trained: {name} differs",
                "transformers writes this architecture in another way than it reads it. Try another version of transformers.",
            )


def record_canaries(model: Any, job: TrainJob, end_ids: frozenset[int]) -> list[Canary]:
    """Greedy continuations of `job.canary_prompts` by the final weights: up to `canary_tokens` positions
    each, the end token included, each with its five best ids and log-probs (float32, temperature 1).

    Raises DivergedError when they are not finite. All numbers come from passes over a whole sequence. A cache of keys and values
    only guesses the tokens, of all prompts of the same length together, so that one such pass is enough where the guess is right.
    """
    model.eval()
    canaries = []
    guesses: dict[tuple[int, ...], list[int]] = {}
    for length in {len(prompt) for prompt in job.canary_prompts}:
        same = [prompt for prompt in job.canary_prompts if len(prompt) == length]
        guesses |= zip(map(tuple, same), _guess(model, same, job.canary_tokens - 1), strict=True)
    for prompt in job.canary_prompts:
        token_ids, positions = list(prompt), list[CanaryPosition]()
        while len(positions) < job.canary_tokens and not (positions and token_ids[-1] in end_ids):
            if positions:
                (guessed,) = _guess(model, [token_ids], job.canary_tokens - len(positions) - 1)
            else:
                guessed = guesses[tuple(prompt)]
            with torch.no_grad():
                logits_TV = model(torch.tensor([[*token_ids, *guessed]], device=model.device), use_cache=False).logits[
                    0
                ]
            beat()
            logps_TV = torch.log_softmax(logits_TV[len(token_ids) - 1 :].float(), dim=-1)
            top = logps_TV.topk(min(_TOP_K, logps_TV.shape[-1]))
            if not bool(torch.isfinite(top.values).all()):
                raise DivergedError(
                    "the trained policy's log-probs are not finite: training diverged; the starting policy is kept",
                    "Lower training.learning_rate.",
                )
            for ids, logps, guess in zip(top.indices.tolist(), top.values.tolist(), [*guessed, None], strict=True):
                positions.append(CanaryPosition(ids, logps))
                token_ids.append(ids[0])
                if ids[0] != guess or ids[0] in end_ids:
                    break
        canaries.append(Canary(list(prompt), positions))
    return canaries


def _guess(model: Any, rows: Sequence[Sequence[int]], num: int) -> list[list[int]]:
    """Up to `num` tokens of a greedy continuation of each row, by a cache of keys and values. The rows are equally long."""
    cache, following, found = None, torch.tensor(rows, device=model.device), list[torch.Tensor]()
    with torch.no_grad():
        while len(found) < num:
            output = model(following, past_key_values=cache, use_cache=True)
            found.append(output.logits[:, -1].argmax(-1, keepdim=True))
            # other kinds of models have another cache, or none
            if (cache := output.get("past_key_values")) is None:
                break
            following = found[-1]
    guessed: list[list[int]] = torch.cat(found, dim=-1).tolist() if found else [[] for _ in rows]
    return guessed
