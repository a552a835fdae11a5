"""Stage *logprobs*: teacher-forced log-probs of responses under a policy folder, with plain transformers.

One forward pass over the policy's own token ids at temperature 1: the model's distribution, not the one that
was sampled from after temperature and top-p. The trainer's reference log-probs come from here too, and so does
what else a metric may read of the policy: log-probs of responses alone (IFD), its "yes" (Ask-LLM) and embeddings,
the last two by way of hidden_states.py.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import torch

from selfplay.backends.transformers import hidden_states
from selfplay.backends.transformers.batching import token_batches
from selfplay.backends.transformers.device import BATCH_TOKENS
from selfplay.backends.transformers.model_cache import ModelCache
from selfplay.backends.transformers.shared_prompt import Task
from selfplay.core.errors import BackendError
from selfplay.core.heartbeat import beat
from selfplay.core.protocols import LogprobItem, Question

# Logits in one forward pass (rows x positions x vocabulary): 1 GiB in float32. A single long response may
# exceed it.
_MAX_LOGITS = 1 << 28
# Logits turned to float32 at a time.
_CHUNK_LOGITS = 1 << 25

LOGPROB_SCHEMA = pa.schema(
    [
        pa.field("response_id", pa.string(), nullable=False),
        pa.field("logp", pa.float64(), nullable=False),
        pa.field("num_tokens", pa.int64(), nullable=False),
    ]
)
PROBABILITY_SCHEMA = pa.schema(
    [pa.field("response_id", pa.string(), nullable=False), pa.field("probability", pa.float64(), nullable=False)]
)


class TorchLogprobs:
    """Log-probs and what else metrics read of a model; keeps the last model it loaded (see ModelCache).

    The softmax is in float32 whatever the `dtype`. `batch_tokens`: padded tokens in a forward pass
    (None: by the device).
    """

    def __init__(
        self,
        *,
        dtype: str = "auto",
        batch_tokens: int | None = None,
        trust_remote_code: bool = False,
        threads: int = 1,
    ) -> None:
        self._cache = ModelCache(dtype=dtype, trust_remote_code=trust_remote_code, threads=threads)
        self._batch_tokens = batch_tokens or BATCH_TOKENS[self._cache.device.type]

    def use_dtype(self, dtype: str) -> None:
        """Use another dtype from here on (that of the trainer, if it runs on another kind of device)."""
        self._cache.use_dtype(dtype)

    def logprobs(self, folder: str, digest: str, items: Sequence[LogprobItem]) -> pa.Table:
        """Sums over each response's tokens, as LOGPROB_SCHEMA in item order; an empty response has 0.0.

        `digest` names the content of `folder`: a model with the same digest is not loaded again. Raises
        ModelError when the folder does not hold a complete causal language model, BackendError for token ids
        that the model cannot take and for log-probs that are not finite.
        """
        self._cache.use(folder, digest)
        scored = [index for index, item in enumerate(items) if item.token_ids]
        for index in scored:
            item = items[index]
            if not item.prompt_token_ids:
                raise BackendError(f"response {item.response_id} has a prompt without tokens", "")
            self._cache.check(folder, f"response {item.response_id}", [*item.prompt_token_ids, *item.token_ids])
        self._cache.check_attention(
            folder, [[*items[index].prompt_token_ids, *items[index].token_ids] for index in scored]
        )
        sums = [0.0] * len(items)

        def keep(index: int, logp: float) -> None:
            if not math.isfinite(logp):
                raise BackendError(
                    f"the log-prob of response {items[index].response_id} under {folder} is {logp}",
                    "The weights hold values that are not finite, or the dtype is too narrow for them.",
                )
            sums[index] = logp

        shared = self._shared([items[index] for index in scored])
        for row, logp in shared.items():
            keep(scored[row], logp)
        scored = [index for row, index in enumerate(scored) if row not in shared]
        lengths = [len(items[index].prompt_token_ids) + len(items[index].token_ids) for index in scored]
        # A batch takes logits from its shortest prompt's end on. Its rows have nearly the same length, so that
        # is about as many positions as its longest response has tokens.
        spans = [len(items[index].token_ids) for index in scored]
        for batch in token_batches(lengths, self._batch_tokens, rows_share=spans, batch_share=self._most_logits()):
            chosen = [scored[position] for position in batch]
            for index, logp in zip(chosen, self._forward([items[i] for i in chosen]), strict=True):
                keep(index, logp)
            beat()
        columns = [[item.response_id for item in items], sums, [len(item.token_ids) for item in items]]
        arrays = [pa.array(values, field.type) for values, field in zip(columns, LOGPROB_SCHEMA, strict=True)]
        return pa.Table.from_arrays(arrays, schema=LOGPROB_SCHEMA)

    def logprobs_alone(self, folder: str, digest: str, items: Sequence[LogprobItem], start_token_id: int) -> pa.Table:
        """The same sums with `start_token_id` alone in the place of each prompt: what IFD divides by.

        Source: Li et al., "From Quantity to Quality" (NAACL 2024, arXiv 2308.12032). The authors' code encodes the
        answer by itself, so that a Llama tokenizer puts BOS before it and every token of the answer is judged; so
        here, over the very token ids of the conditional pass (the end token included), so that the ratio of sums is
        the ratio of mean losses. For a tokenizer without BOS see `metric_prompts.start_token_id`.
        """
        return self.logprobs(
            folder, digest, [LogprobItem(item.response_id, [start_token_id], item.token_ids) for item in items]
        )

    def yes_probability(
        self, folder: str, digest: str, questions: Sequence[Question], answers: Sequence[Sequence[int]]
    ) -> pa.Table:
        """Columns response_id, probability (float64 in [0, 1]), in the order of the questions: that the model goes on
        with one of the `answers` (token ids, none the beginning of another). Answers of one token each take one pass;
        others are spelled out by teacher forcing, a row for each. The softmax is over the whole vocabulary. Raises as
        `logprobs`."""
        self._cache.use(folder, digest)
        for question in questions:
            for answer in answers:
                name = f"the question about response {question.response_id}"
                self._cache.check(folder, name, [*question.prompt_token_ids, *answer])
        self._cache.check_attention(folder, [question.prompt_token_ids for question in questions])
        if all(len(answer) == 1 for answer in answers):
            ids = [answer[0] for answer in answers]
            found = hidden_states.next_token_probability(self._cache, folder, questions, ids, self._batch_tokens)
        else:
            spelled = [
                LogprobItem(f"{question.response_id} (answer {index})", question.prompt_token_ids, list(answer))
                for question in questions
                for index, answer in enumerate(answers)
            ]
            logps, size = self.logprobs(folder, digest, spelled)["logp"].to_pylist(), len(answers)
            found = [math.fsum(map(math.exp, logps[start : start + size])) for start in range(0, len(logps), size)]
        columns = [
            pa.array([question.response_id for question in questions], pa.string()),
            # a sum of rounded probabilities may exceed 1 by a rounding error
            pa.array([min(probability, 1.0) for probability in found], pa.float64()),
        ]
        return pa.table(columns, schema=PROBABILITY_SCHEMA)

    def embeddings(self, folder: str, digest: str, items: Sequence[LogprobItem]) -> pa.Table:
        """Columns response_id, embedding (fixed-size list of D float32), in item order: mean over the tokens of prompt
        and response of the last layer's hidden states, after its final norm. `folder` may hold a model that is no
        language model (an encoder); the token ids are of its own tokenizer. Raises as `logprobs`."""
        self._cache.use(folder, digest, causal=False)
        for item in items:
            self._cache.check(folder, f"response {item.response_id}", [*item.prompt_token_ids, *item.token_ids])
        self._cache.check_attention(folder, [[*item.prompt_token_ids, *item.token_ids] for item in items])
        return hidden_states.mean_pooled(self._cache, folder, items, self._batch_tokens)

    def release(self) -> None:
        """Free the model's memory; the next call loads again."""
        self._cache.release()

    def _shared(self, items: list[LogprobItem]) -> dict[int, float]:
        """Log-prob sums, by place, of the items that share a pass over their prompt with others.

        The last token of a prompt predicts the first of the response, so it belongs to the rows; the last of a response predicts
        nothing that is wanted."""

        def read(logits: torch.Tensor, rows: list[int]) -> list[float]:
            return [
                _sum_logps(logits[place, : len(items[row].token_ids)], self._targets(items[row]))
                for place, row in enumerate(rows)
            ]

        prompts = [tuple(item.prompt_token_ids) for item in items]
        return self._cache.shared_prompts.results(
            [[*item.prompt_token_ids, *item.token_ids][:-1] for item in items],
            prompts,
            [len(prompt) - 1 for prompt in prompts],
            Task(
                read,
                lambda rows: self._forward([items[row] for row in rows]),
                self._batch_tokens,
                self._most_logits(),
            ),
        )

    def _most_logits(self) -> int:
        """Positions of a batch whose logits fit into memory."""
        return max(1, _MAX_LOGITS // self._cache.vocab_size)

    def _targets(self, item: LogprobItem) -> torch.Tensor:
        return torch.tensor(item.token_ids, device=self._cache.device)

    def _forward(self, items: list[LogprobItem]) -> list[float]:
        """Log-prob sums of one batch, padded on the right.

        The logits at position p predict token p + 1, so a response's tokens are judged from one position before
        its first to one before its last. Only the positions that some row needs go through the LM head.
        """
        model, device = self._cache.model, self._cache.device
        input_ids, mask = self._cache.padded([[*item.prompt_token_ids, *item.token_ids] for item in items])
        first = min(len(item.prompt_token_ids) for item in items) - 1
        keep: dict[str, Any] = {}
        if "logits_to_keep" in inspect.signature(model.forward).parameters:
            keep["logits_to_keep"] = torch.arange(first, input_ids.shape[1] - 1, device=device)
        with torch.inference_mode():
            logits = model(input_ids=input_ids, attention_mask=mask, use_cache=False, **keep).logits
        offset = first if keep else 0
        sums = []
        for row, item in enumerate(items):
            start = len(item.prompt_token_ids) - 1 - offset
            sums.append(_sum_logps(logits[row, start : start + len(item.token_ids)], self._targets(item)))
        return sums


def _sum_logps(logits_TV: torch.Tensor, targets_T: torch.Tensor) -> float:
    """Sum over T tokens of their log-probs (natural log): softmax in float32, piecewise; the sum in float64."""
    step = max(1, _CHUNK_LOGITS // logits_TV.shape[-1])
    total = 0.0
    for start in range(0, len(targets_T), step):
        logps_TV = torch.log_softmax(logits_TV[start : start + step].float(), dim=-1)
        logps_T = logps_TV.gather(-1, targets_T[start : start + step, None])
        total += float(logps_T.double().sum())
    return total
