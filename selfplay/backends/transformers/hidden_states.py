"""What stage *logprobs* reads of a model beside log-probs of whole responses: the probability of a next token, and
mean-pooled hidden states. Length-sorted batches under a token budget, padded on the right.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from selfplay.backends.transformers.batching import token_batches
from selfplay.backends.transformers.model_cache import ModelCache
from selfplay.core.errors import BackendError
from selfplay.core.heartbeat import beat
from selfplay.core.protocols import LogprobItem, Question

_NOT_FINITE = "The weights hold values that are not finite, or the dtype is too narrow for them."


def next_token_probability(
    cache: ModelCache, folder: str, questions: Sequence[Question], token_ids: Sequence[int], batch_tokens: int
) -> list[float]:
    """Probability that one of `token_ids` comes next, for each question: softmax in float32 over the vocabulary."""
    found = [0.0] * len(questions)
    for batch in token_batches([len(question.prompt_token_ids) for question in questions], batch_tokens):
        rows = [questions[index].prompt_token_ids for index in batch]
        last_BV = _last_logits(cache, rows)
        beat()
        probability_BV = torch.softmax(last_BV.float(), dim=-1)
        for index, value in zip(batch, probability_BV[:, list(token_ids)].double().sum(-1).tolist(), strict=True):
            if not math.isfinite(value):
                raise BackendError(
                    f"the answer about response {questions[index].response_id} under {folder} has probability {value}",
                    _NOT_FINITE,
                )
            found[index] = value
    return found


def _last_logits(cache: ModelCache, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Logits at each row's last token. Only the positions that are some row's last go through the LM head."""
    input_ids, mask = cache.padded(rows)
    lasts = [len(row) - 1 for row in rows]
    positions = sorted(set(lasts))
    keep: dict[str, Any] = {}
    if "logits_to_keep" in inspect.signature(cache.model.forward).parameters:
        keep["logits_to_keep"] = torch.tensor(positions, device=cache.device)
        columns = [positions.index(last) for last in lasts]
    else:
        columns = lasts
    with torch.inference_mode():
        logits = cache.model(input_ids=input_ids, attention_mask=mask, use_cache=False, **keep).logits
        last: torch.Tensor = logits[torch.arange(len(rows), device=cache.device), columns]
    return last


def mean_pooled(cache: ModelCache, folder: str, items: Sequence[LogprobItem], batch_tokens: int) -> pa.Table:
    """Columns response_id, embedding (fixed-size list of D float32), in item order: see TorchLogprobs.embeddings."""
    rows = [[*item.prompt_token_ids, *item.token_ids] for item in items]
    size: int = cache.model.config.get_text_config().hidden_size
    # the decoder alone: the LM head is most of a pass at a large vocabulary, and nothing of it is wanted
    body = cache.model.base_model
    options = {"use_cache": False} if "use_cache" in inspect.signature(body.forward).parameters else {}
    pooled_PD = np.zeros((len(rows), size), dtype=np.float32)
    for batch in token_batches([len(row) for row in rows], batch_tokens):
        input_ids, mask = cache.padded([rows[index] for index in batch])
        with torch.inference_mode():
            hidden_BTD = body(input_ids=input_ids, attention_mask=mask, **options).last_hidden_state
            hidden_BTD = hidden_BTD.float() * mask[:, :, None]
            mean_BD = hidden_BTD.sum(1) / mask.sum(1)[:, None]
        beat()
        pooled_PD[batch] = mean_BD.cpu().numpy()
    bad = np.flatnonzero(~np.isfinite(pooled_PD).all(axis=1))
    if len(bad):
        raise BackendError(
            f"the embedding of response {items[bad[0]].response_id} under {folder} is not finite", _NOT_FINITE
        )
    return pa.table(
        {
            "response_id": pa.array([item.response_id for item in items], pa.string()),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(pooled_PD.reshape(-1), pa.float32()), size),
        }
    )
