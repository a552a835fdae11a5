"""Everything that a model has to pass over the pairs for: log-probs, and what the chosen metric reads beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from selfplay.core.errors import DataError
from selfplay.core.protocols import LogprobItem, Question
from selfplay.dataset_selection.computing import Computing, Filled, check_rows, floats, free_rows, rows_of, spread
from selfplay.dataset_selection.models import embedding_ids
from selfplay.dataset_selection.needs import ALONE, EMBEDDING, YES, Needs
from selfplay.dataset_selection.tokens import Tokens, embedded, embedding_column
from selfplay.execution.quarantine import QuarantinePolicy
from selfplay.execution.sharding import cut
from selfplay.selection.reasons import DropReasons


def passes(computing: Computing, pairs: pa.Table, needs: Needs, reasons: DropReasons) -> Filled:
    """Everything that a model has to pass over the pairs for. `reasons` are those that pairs were dropped for before."""
    filled = Filled(reasons=reasons)
    if needs.rendered:
        _model_passes(computing, pairs, needs, filled)
    if needs.yes:
        _ask(computing, pairs, filled)
    if needs.other_embedding:
        _embed_by_other(computing, pairs, filled)
    return filled


def _model_passes(computing: Computing, pairs: pa.Table, needs: Needs, filled: Filled) -> None:
    models = computing.models
    tokens = Tokens(computing, pairs, free_rows(filled))
    tokens.fill(filled)
    policy = models.policy
    assert policy is not None
    if needs.policy_logps:
        both = tokens.forward("policy", policy, "policy log-probs")
        filled.columns |= {"policy_logp_chosen": both[0], "policy_logp_rejected": both[1]}
    if needs.reference_logps:
        assert models.reference is not None
        both = tokens.forward("reference", models.reference, "reference log-probs")
        filled.columns |= {"reference_logp_chosen": both[0], "reference_logp_rejected": both[1]}
    if needs.alone:
        from selfplay.inputs.models.metric_prompts import start_token_id

        assert models.renderer is not None
        start = start_token_id(models.renderer.tokenizer)
        filled.columns[ALONE] = tokens.forward("alone", policy, "log-probs without the prompt", start=start)[0]
    tokens.leave_out_the_lost(filled)
    if needs.embedding:
        filled.columns[EMBEDDING] = tokens.embed(policy)


def _ask(computing: Computing, pairs: pa.Table, filled: Filled) -> None:
    from selfplay.inputs.models.metric_prompts import AskLlm

    models = computing.models
    assert models.renderer is not None and models.policy is not None
    policy = models.policy
    ask = AskLlm(models.renderer, models.limit or 1 << 30)
    rows = free_rows(filled)
    ids = pairs["pair_id"].to_pylist()
    trimmed: list[str] = []

    def arguments(shard: Sequence[int]) -> tuple[Any, ...]:
        texts = rows_of(pairs, shard, ("prompt", "chosen"))
        questions = []
        for row in shard:
            rendered = ask.render(texts[row]["prompt"], texts[row]["chosen"][-1]["content"])
            questions.append(Question(ids[row], rendered.token_ids))
            trimmed.extend([ids[row]] * rendered.trimmed)
        return (str(policy.folder), policy.digest, questions, ask.answers)

    def finish(_: int, result: pa.Table | None) -> pa.Table:
        empty = pa.table({"response_id": pa.array([], pa.string()), "probability": pa.array([], pa.float64())})
        return empty if result is None else result

    writer = computing.work.stage("yes")
    shards = cut(rows.tolist(), computing.settings.shard_size)
    table = computing.run(
        writer, "logprobs", "yes_probability", shards, arguments, finish, title="questions",
        quarantine=QuarantinePolicy(ids.__getitem__),
    )  # fmt: skip
    check_rows(table["response_id"], [ids[row] for row in rows], writer)
    filled.columns[YES] = spread(floats(table["probability"]), rows, pairs.num_rows)
    if trimmed:
        filled.notes.append(
            f"In {len(trimmed)} questions the middle of the example was left out, so that they fit the context."
        )


def _embed_by_other(computing: Computing, pairs: pa.Table, filled: Filled) -> None:
    models = computing.models
    assert models.embedding is not None and filled.reasons is not None
    model, ids = models.embedding, pairs["pair_id"].to_pylist()
    rows = free_rows(filled)
    reasons: dict[int, str] = {}
    token_ids: dict[int, list[int]] = {}
    for row, values in rows_of(pairs, rows.tolist(), ("prompt", "chosen")).items():
        try:
            token_ids[row] = embedding_ids(models, values["prompt"], values["chosen"][-1]["content"])
        except DataError:
            reasons[row] = "too_long_for_embedding_model"
    if reasons:
        filled.reasons = filled.reasons.put(
            np.array(list(reasons), dtype=np.int64), DropReasons.of(list(reasons.values()))
        )
    used = np.array(sorted(token_ids), dtype=np.int64)

    def arguments(shard: Sequence[int]) -> tuple[Any, ...]:
        return (str(model.folder), model.digest, [LogprobItem(ids[row], token_ids[row], []) for row in shard])

    writer = computing.work.stage("embedding")
    shards = cut(used.tolist(), computing.settings.shard_size)
    table = computing.run(
        writer, "logprobs", "embeddings", shards, arguments, embedded, title="embeddings",
        quarantine=QuarantinePolicy(ids.__getitem__),
    )  # fmt: skip
    filled.columns[EMBEDDING] = embedding_column(table, used, pairs.num_rows)
