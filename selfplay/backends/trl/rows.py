"""The rows of a training job (stage *train*): what may not be trained on, and in which order the rest is
seen.

Rows are token ids as they were sampled. Nothing is truncated, re-tokenised or dropped here: what does not fit
is an error.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence

import pyarrow as pa
from torch.utils.data import Sampler

from selfplay.core.errors import BackendError
from selfplay.core.losses import LOSSES
from selfplay.core.protocols import TrainJob, TrainPair
from selfplay.core.train_pairs import pairs_table

IGNORED_LABEL = -100


def check_pairs(job: TrainJob, vocab_size: int) -> None:
    """Raises BackendError naming the first pair that this job cannot train on as it is."""
    if not job.pairs:
        raise BackendError("a training job has no pairs", "A round that keeps no pair skips training.")
    seen: set[str] = set()
    for pair in job.pairs:
        if pair.pair_id in seen:
            raise BackendError(f"pair {pair.pair_id} is in the training job twice", "Pair ids must be unique.")
        seen.add(pair.pair_id)
        if problem := _problem(pair, job, vocab_size):
            raise BackendError(f"pair {pair.pair_id} cannot be trained on: {problem[0]}", problem[1])


def _problem(pair: TrainPair, job: TrainJob, vocab_size: int) -> tuple[str, str] | None:
    """The problem of a pair and a hint; None if it can be trained on."""
    again = "Its log-probs are incomplete: run the stage logprobs of this round again."
    for side, token_ids in (("chosen", pair.chosen_token_ids), ("rejected", pair.rejected_token_ids)):
        length = len(pair.prompt_token_ids) + len(token_ids)
        if not pair.prompt_token_ids or not token_ids:
            return f"its prompt or its {side} response has no tokens", "Such pairs must be dropped before training."
        if length > job.max_length:
            return (
                f"prompt and {side} response have {length} tokens, training.max_length is {job.max_length}",
                "Sequences are never truncated: raise training.max_length or lower sampling.max_tokens.",
            )
        highest = max(*pair.prompt_token_ids, *token_ids)
        if highest >= vocab_size:
            return (
                f"token id {highest} is outside the policy's vocabulary of {vocab_size}",
                "The pair was made with another tokenizer.",
            )
    if not (math.isfinite(pair.policy_logp_chosen) and math.isfinite(pair.policy_logp_rejected)):
        return "a policy log-prob is not finite", again
    if not LOSSES[job.loss].reference_free:
        references = (pair.reference_logp_chosen, pair.reference_logp_rejected)
        if any(logp is None or not math.isfinite(logp) for logp in references):
            return "a reference log-prob is missing or not finite", again
    return None


_COLUMNS = {"prompt_ids": "prompt_token_ids", "chosen_ids": "chosen_token_ids", "rejected_ids": "rejected_token_ids"}
_REFERENCE = {"ref_chosen_logps": "reference_logp_chosen", "ref_rejected_logps": "reference_logp_rejected"}


def trl_table(pairs: Sequence[TrainPair], *, reference: bool) -> pa.Table:
    """Columns by the names TRL's DPO collator takes: token ids and, with `reference`, cached reference log-probs."""
    table = pairs_table(pairs)
    return pa.table({name: table[source] for name, source in (_COLUMNS | (_REFERENCE if reference else {})).items()})


class RowOrder(Sampler[int]):
    """The order of the rows, anew for each epoch: by a hash of seed, epoch and pair id.

    It depends neither on the order in which the pairs came nor on the micro-batch or any library's generator.
    """

    def __init__(self, pairs: Sequence[TrainPair], seed: int) -> None:
        self._ids = pairs_table(pairs)["pair_id"]
        self._seed, self._epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by transformers (through accelerate) before each epoch, on a resume too."""
        self._epoch = epoch

    def shuffled(self) -> list[int]:
        """Row indices of the current epoch, shuffled."""
        keys = [self._key(name.as_py()) for name in self._ids]
        return sorted(range(len(keys)), key=keys.__getitem__)

    def __iter__(self) -> Iterator[int]:
        return iter(self.shuffled())

    def __len__(self) -> int:
        return len(self._ids)

    def _key(self, pair_id: str) -> bytes:
        return hashlib.sha256(f"{self._seed}/{self._epoch}/{pair_id}".encode()).digest()
