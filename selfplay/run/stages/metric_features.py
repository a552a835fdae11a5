"""What a metric reads beyond rewards and log-probs of pairs: made in stage *logprobs* with the policy that is loaded there,
read in stage *select*. Nothing of it is made unless the round's metric asks.

The tables lie hidden beside the log-probs, one for each quantity, in shards like them:
    .alone       response_id logp num_tokens        chosen responses without their prompt (IFD)
    .asked       response_id probability? trimmed   the policy's "yes" about prompt and chosen response (Ask-LLM)
    .embeddings  response_id embedding              mean hidden state over prompt and chosen response (density)
    .others      response_id logp num_tokens        the policy's other responses to the prompts of the pairs (APL)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core import stages
from selfplay.core.answer_schemas import ASKED_SCHEMA, LOGPS_SCHEMA
from selfplay.core.errors import DataError
from selfplay.core.protocols import LogprobItem, Question
from selfplay.core.records import Message
from selfplay.execution.quarantine import QuarantinePolicy
from selfplay.execution.sharding import LazyItems, Shards, cut_as_begun, quarantined, run_shards
from selfplay.inputs.metric_requirements import ALONE, ASKED, EMBEDDING, ENTROPY
from selfplay.inputs.models.metric_prompts import AskLlm, start_token_id
from selfplay.inputs.resolve import EmbeddingModel
from selfplay.run.stages.context import Policy, StageContext
from selfplay.run.stages.rows import candidate_responses, logprob_items, prompt_rows, row_numbers
from selfplay.selection.arrays import Floats, Ints
from selfplay.store.layout import stage_name
from selfplay.store.lazy_table import RowReader
from selfplay.store.writer import StageWriter

TABLES = {ALONE: stages.ALONE, ASKED: stages.ASKED, EMBEDDING: stages.EMBEDDINGS, ENTROPY: stages.OTHERS}
# a round without pairs has no model's word for the width
_EMBEDDED = pa.schema([("response_id", pa.string()), ("embedding", pa.list_(pa.float32(), 1))])


def make(context: StageContext, round_number: int, writer: StageWriter, policy: Policy) -> dict[str, Any]:
    """Make the tables that the round's metric needs, and return what there is to record of them."""
    wanted = context.inputs.ranking.made_for(round_number)
    if not wanted:
        return {}
    work = _Work(context, round_number, writer, policy)
    makers: dict[str, Callable[[], dict[str, Any]]] = {
        ALONE: work.alone, ASKED: work.asked, EMBEDDING: work.embeddings, ENTROPY: work.others,
    }  # fmt: skip
    return {name: makers[name]() for name in sorted(wanted)}


@dataclass(frozen=True, slots=True)
class _Asked:
    """A chosen response that the policy is asked about."""

    response_id: str
    messages: list[Message]
    text: str


class _Work:
    """The makers of one round. Chosen responses are by id, each once: one may be in several pairs."""

    def __init__(self, context: StageContext, round_number: int, writer: StageWriter, policy: Policy) -> None:
        self._context, self._round, self._writer, self._policy = context, round_number, writer, policy
        self._candidates = candidate_responses(context, round_number)
        # the mark of the stage has the digests of what it reads as a whole from the beginning: *pair* of a run is not among them
        pair = (round_number, "pair")
        self._reads = {} if context.from_dataset else {stage_name(*pair): context.store.digest_of(*pair)}

    def alone(self) -> dict[str, Any]:
        """See ALONE."""
        start = start_token_id(self._context.inputs.renderer.tokenizer)
        items = self._chosen()
        self._run(ALONE, "logprobs_alone", items, lambda shard: (list(shard), start), _or_empty(LOGPS_SCHEMA))
        return {"num_responses": len(items), "start_token_id": start}

    def embeddings(self) -> dict[str, Any]:
        """See EMBEDDING. A selection from a dataset may have a model for it; what is too long for that has no row."""
        if (other := self._context.inputs.embedding) is not None:
            return self._embeddings_of(other)
        items = self._chosen()
        self._run(EMBEDDING, "embeddings", items, lambda shard: (list(shard),), self._embedded)
        return {"num_responses": len(items)}

    def _embeddings_of(self, other: EmbeddingModel) -> dict[str, Any]:
        _, chosen = self._chosen_texts()
        items = []
        for start in range(0, len(chosen), 1024):
            for item in chosen[start : start + 1024]:
                if (ids := other.token_ids(item.messages, item.text)) is not None:
                    items.append(LogprobItem(item.response_id, ids, []))
        model = Policy(str(other.model.folder), str(other.model.folder), other.model.digest, 0)
        self._run(EMBEDDING, "embeddings", items, lambda shard: (list(shard),), self._embedded, model)
        return {"num_responses": len(items), "num_too_long": len(chosen) - len(items)}

    def _embedded(self, _: int, table: pa.Table | None) -> pa.Table:
        if table is not None and table.num_rows:
            return table
        # of another width than the other shards' it could not stand beside them
        kept = sorted(self._writer.shards(TABLES[EMBEDDING]))
        shape = self._writer.read_shard(kept[0], TABLES[EMBEDDING]).schema if kept else _EMBEDDED
        return shape.empty_table()

    def others(self) -> dict[str, Any]:
        """See ENTROPY. Cut responses count: the entropy is that of what is sampled, the length limit included."""
        sample = _own(self._context, self._round, ["response_id", "prompt_id", "num_tokens"])
        paired = pa.chunked_array(
            [*self._candidates["chosen_response_id"].chunks, *self._candidates["rejected_response_id"].chunks],
            pa.string(),
        ).unique()
        is_paired = pc.is_in(sample["response_id"], value_set=paired)
        of_pairs = pc.is_in(sample["prompt_id"], value_set=self._prompts_of(paired))
        new = pc.and_(pc.greater(sample["num_tokens"], 0), pc.invert(is_paired))
        others = sample.filter(pc.and_(of_pairs, new))["response_id"].combine_chunks()
        _, items = logprob_items(self._context, [(self._round, others)])
        self._run(ENTROPY, "logprobs", items, lambda shard: (list(shard),), _or_empty(LOGPS_SCHEMA))
        return {"num_responses": len(items)}

    def asked(self) -> dict[str, Any]:
        """See ASKED. Questions are rendered as their shard is sent."""
        inputs = self._context.inputs
        ask = AskLlm(inputs.renderer, inputs.context_length)
        trimmed: dict[str, bool | None] = {}

        def questions(shard: Sequence[_Asked]) -> tuple[Any, ...]:
            asked = []
            for item in shard:
                try:
                    rendered = ask.render(item.messages, item.text)
                except DataError:  # the tokenizer cannot write this text, so the policy cannot be asked about it
                    trimmed[item.response_id] = None
                    continue
                trimmed[item.response_id] = rendered.trimmed
                asked.append(Question(item.response_id, rendered.token_ids))
            return asked, ask.answers

        def complete(index: int, table: pa.Table | None) -> pa.Table:
            if table is None:
                return ASKED_SCHEMA.empty_table()
            names = ids.slice(starts[index], len(shards[index]))
            found = pc.index_in(names, value_set=table["response_id"].combine_chunks())
            # a shard of which every response killed its worker has no probabilities
            asked = table.num_rows > 0
            columns = [
                names,
                table["probability"].combine_chunks().take(found) if asked else pa.nulls(len(names), pa.float64()),
                pa.array([trimmed.pop(name) for name in names.to_pylist()], pa.bool_()),
            ]
            return pa.table(columns, names=ASKED_SCHEMA.names).cast(ASKED_SCHEMA)

        ids, items = self._chosen_texts()
        shards = self._cut(ASKED, items)
        starts = list(accumulate(map(len, shards), initial=0))
        self._run(ASKED, "yes_probability", items, questions, complete)
        table = self._writer.read_shards(TABLES[ASKED])
        return {
            "num_responses": len(items),
            "num_trimmed": int(pc.sum(table["trimmed"]).as_py() or 0),
            "num_not_asked": table["probability"].null_count,
            "answers": ask.answers,
        }

    def _chosen(self) -> LazyItems[LogprobItem]:
        """The chosen responses, by id."""
        return logprob_items(self._context, [(self._round, self._chosen_ids())])[1]

    def _chosen_ids(self) -> pa.Array:
        """The ids of the chosen responses. Those that have killed a worker in this stage are not asked about again."""
        chosen = self._candidates["chosen_response_id"].unique()
        lost = quarantined(self._writer, "", stages.REFERENCE, stages.CHECKED)
        return chosen.filter(pc.invert(pc.is_in(chosen, value_set=pa.array([*lost], pa.string()))))

    def _chosen_texts(self) -> tuple[pa.Array, LazyItems[_Asked]]:
        """The same responses as texts, and their ids."""
        store = self._context.store
        chosen = self._chosen_ids()
        chosen = chosen.take(pc.sort_indices(chosen))
        sample = store.table(self._round, "sample", columns=["response_id", "prompt_id"])
        row = row_numbers(pa.chunked_array([chosen]), sample["response_id"])
        prompt_row = prompt_rows(self._context, self._round, sample["prompt_id"].take(pa.array(row)))
        texts = RowReader(store.lazy_table(self._round, "sample"), ["text"])
        prompts = RowReader(store.lazy_table(self._round, "prompts"), ["messages"])

        def make(start: int, stop: int) -> list[_Asked]:
            columns = (
                chosen.slice(start, stop - start),
                prompts.take(prompt_row[start:stop])["messages"],
                texts.take(row[start:stop])["text"],
            )
            return [_Asked(*found) for found in zip(*(column.to_pylist() for column in columns), strict=True)]

        return chosen, LazyItems(len(chosen), make)

    def _prompts_of(self, response_ids: pa.Array) -> pa.Array:
        table = self._context.store.table(self._round, "sample", columns=["response_id", "prompt_id"])
        return table.filter(pc.is_in(table["response_id"], value_set=response_ids))["prompt_id"].unique()

    def _cut(self, quantity: str, items: Sequence[Any]) -> list[Sequence[Any]]:
        size = self._context.settings.sampling.shard_size
        return cut_as_begun(self._writer, (TABLES[quantity],), items, size, reads=self._reads)

    def _run(
        self,
        quantity: str,
        method: str,
        items: Sequence[Any],
        arguments: Callable[[Sequence[Any]], tuple[Any, ...]],
        finish: Callable[[int, Any], pa.Table],
        model: Policy | None = None,
    ) -> None:
        """Run a method on shards of items, with the policy unless another `model` is given. A response that kills its worker
        has no row."""
        policy = model or self._policy
        quarantine: QuarantinePolicy[Any] = QuarantinePolicy(
            lambda item: str(item.response_id),
            lambda _, reason: pa.table({"response_id": pa.array([], pa.string())}),
            self._context.settings.max_poison_items,
        )
        run_shards(
            self._context, self._writer, self._context.workers.logprobs, method,
            Shards.of(self._cut(quantity, items), self._reads),
            lambda shard: (policy.folder, policy.digest, *arguments(shard)),
            finish,
            title=f"round {self._round} {quantity}", unit="responses", table=TABLES[quantity], quarantine=quarantine,
        )  # fmt: skip


def _own(context: StageContext, round_number: int, columns: list[str]) -> pa.Table:
    """Rows of the responses that the policy itself sampled."""
    if context.settings.sampling.mix is None:
        return context.store.table(round_number, "sample", columns=columns)
    table = context.store.table(round_number, "sample", columns=[*columns, "policy_round"])
    return table.filter(pc.is_valid(table["policy_round"])).select(columns)


def _or_empty(shape: pa.Schema) -> Callable[[int, Any], pa.Table]:
    return lambda _, table: table if table is not None and table.num_rows else shape.empty_table()


def read(context: StageContext, round_number: int, name: str, chosen_id: pa.ChunkedArray, prompt_code_P: Ints) -> Any:
    """Column `name` (one of MADE_FOR_METRICS) of the pairs whose chosen responses are `chosen_id`: P numbers, or P x D for the
    embedding; NaN where the response is quarantined. `prompt_code_P` are the rows of the pairs' prompts in the prompts table."""
    table = context.store.table(round_number, "logprobs", TABLES[name])
    if name == ENTROPY:
        return _entropy(context, round_number, table)[prompt_code_P]
    found = pc.index_in(chosen_id, value_set=table["response_id"].combine_chunks())
    if name == EMBEDDING:
        embeddings = table["embedding"].combine_chunks()
        values = embeddings.flatten().to_numpy().reshape(len(embeddings), embeddings.type.list_size)
    else:
        values = table["logp" if name == ALONE else "probability"].cast(pa.float64()).to_numpy()
    if not found.null_count:
        return values[found.to_numpy()]
    nothing = np.full((1, *values.shape[1:]), np.nan, values.dtype)
    return np.concatenate([values, nothing])[found.fill_null(len(values)).to_numpy()]


def _entropy(context: StageContext, round_number: int, others: pa.Table) -> Floats:
    """prompt_entropy of each row of the prompts table, in nats: minus the mean of the summed log-probs of the policy's own
    responses, a sampled estimate of the entropy of its answers; NaN without one.

    Source: the predictive entropy of APL, Muldrew et al., ICML 2024 (arXiv 2402.08114). Departs in that log-probs are at
    temperature 1 while the responses were sampled with the run's temperature and top-p.
    """
    store = context.store
    prompt_ids = store.table(round_number, "prompts", columns=["prompt_id"])["prompt_id"].combine_chunks()
    own = _own(context, round_number, ["response_id", "prompt_id"])
    paired = store.table(round_number, "logprobs", columns=["response_id", "policy_logp"])
    names = pa.chunked_array([*paired["response_id"].chunks, *others["response_id"].chunks], pa.string())
    logp = np.concatenate([paired["policy_logp"].to_numpy(), others["logp"].to_numpy()])
    row = pc.index_in(own["response_id"], value_set=names.combine_chunks())
    known = pc.is_valid(row).to_numpy()
    prompt = pc.index_in(own["prompt_id"], value_set=prompt_ids).to_numpy()[known]
    size = len(prompt_ids)
    total = np.bincount(prompt, weights=logp[row.drop_null().to_numpy()], minlength=size)
    with np.errstate(invalid="ignore"):
        return -total / np.bincount(prompt, minlength=size)
