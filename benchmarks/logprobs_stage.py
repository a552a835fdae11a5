"""The stage *logprobs* of a round with 256 pairs, with the engine's log-probs or with a forward pass: a part of `logprobs`.

The tables of the stages before it are written here. The engine's log-probs are those of the model, taken beforehand: the stage
does the same with them, whoever computed them.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.figures import Given, alternate
from benchmarks.forward_work import SMALL, make_model, make_work, seconds
from benchmarks.local_pool import LocalPool
from selfplay.config.load import validate
from selfplay.core.outcomes import LogprobsOutcome, PairOutcome, PromptsOutcome, SampleOutcome
from selfplay.core.pool import Workers
from selfplay.core.protocols import LogprobItem
from selfplay.core.records import Prompt, Response, Unused, schema
from selfplay.core.stages import CANDIDATES
from selfplay.execution.progress import Reporter
from selfplay.inputs.metric_requirements import Ranking
from selfplay.run.driver import stage_settings
from selfplay.run.stages import logprobs
from selfplay.run.stages.context import StageContext
from selfplay.selection.metrics import find_metric
from selfplay.store.durable import pretty_json
from selfplay.store.run import Store

DIGEST = "a" * 64
NUM_PROMPTS, PROMPT_WORDS, RESPONSE_WORDS = 256, 12, 24


def stage_seconds(given: Given, folder: Path) -> tuple[dict[str, list[float]], float]:
    """Processor seconds of the stage by source, and the largest error of its check."""
    from transformers import AutoTokenizer

    from selfplay.backends.transformers.logprobs import TorchLogprobs

    policy = make_model(folder / "policy", SMALL, is_reward=False)
    tokenizer, backend = AutoTokenizer.from_pretrained(policy), TorchLogprobs(threads=1)
    work = make_work(given.scaled(NUM_PROMPTS), 2, PROMPT_WORDS, RESPONSE_WORDS)
    prompts = [tokenizer(text).input_ids for text in work.prompts]
    items = [
        LogprobItem(f"{prompt:08d}-r001-{row % 2}", prompts[prompt], tokenizer(text).input_ids)
        for row, (prompt, text) in enumerate(work.responses)
    ]
    # alone, as the engine computes them in batches of its own
    sampler_logp = [backend.logprobs(str(policy), DIGEST, [item])["logp"][0].as_py() for item in items]
    found: list[LogprobsOutcome] = []

    def run(source: str) -> float:
        shutil.rmtree(folder / "run", ignore_errors=True)
        context = _context(folder, policy, source, backend)
        _write(context.store, items, sampler_logp)
        backend.release()
        took = seconds(lambda: logprobs.run(context, 1))
        found.append(context.store.outcome(1, LogprobsOutcome))
        assert found[-1].source == source
        return took

    times = alternate({"model": lambda: run("model"), "engine": lambda: run("engine")}, given.num_runs)
    errors = [outcome.check.error_max or 0.0 for outcome in found if outcome.check is not None]
    return times, max(errors)


def _context(folder: Path, policy: Path, source: str, backend: Any) -> StageContext:
    document = {
        "policy": {"model": str(policy)}, "prompts": {"source": "/data/train.jsonl", "per_round": NUM_PROMPTS},
        "sampling": {"num_responses": 2, "max_tokens": 512}, "reward": {"model": "/models/reward"},
        "selection": {"keep": 0.5, "logprobs": {"source": source}},
        "training": {"beta": 0.1, "learning_rate": 1e-6, "batch_size": 16}, "rounds": 1,
    }  # fmt: skip
    config = validate(document, "logprobs")
    metric = find_metric("alignment_potential")
    inputs: Any = SimpleNamespace(
        policy=SimpleNamespace(folder=policy, digest=DIGEST), ranking=Ranking(metric, metric, "simpo"), reference=None
    )
    return StageContext(
        store=Store.create(folder / "run", {"resolved.json": pretty_json(config.model_dump(mode="json"))}),
        settings=stage_settings(config), inputs=inputs,
        workers=Workers(LocalPool(None), LocalPool(None), LocalPool(backend), LocalPool(None)),
        fingerprint="f" * 64, attempt=1, versions={}, reporter=Reporter(quiet=True),
    )  # fmt: skip


def _write(store: Store, items: list[LogprobItem], sampler_logp: list[float]) -> None:
    """Prompts, responses and candidate pairs: the two responses to each prompt."""
    num, tokens = len(items) // 2, pa.list_(pa.int32())
    ids = pa.array([item.response_id.partition("-")[0] for item in items[::2]])
    turns = pa.array([[{"role": "user", "content": "words"}]] * num, schema(Prompt).field("messages").type)
    prompts = {
        "prompt_id": ids, "round": pa.repeat(1, num), "source_file": pa.repeat("train.jsonl", num),
        "source_row": np.arange(num), "messages": turns, "columns_json": pa.repeat("{}", num),
        "prompt_token_ids": pa.array([item.prompt_token_ids for item in items[::2]], tokens),
        "num_prompt_tokens": pa.array([len(item.prompt_token_ids) for item in items[::2]]),
        "drop_reason": pa.nulls(num, pa.string()),
    }  # fmt: skip
    writer = store.writer(1, "prompts", "f" * 64, [])
    writer.write_shard(0, pa.table({name: prompts[name] for name in schema(Prompt).names}).cast(schema(Prompt)))
    outcome = PromptsOutcome(
        num_prompts=num, num_admitted=num, drop_reasons={}, num_bad_rows=0, bad_rows=[], prompt_tokens=0
    )
    writer.commit(1, "", 0.0, outcome)
    responses = {
        "response_id": pa.array([item.response_id for item in items]), "prompt_id": ids.take(pa.array(np.arange(2 * num) // 2)),
        "round": pa.repeat(1, 2 * num), "response_index": np.arange(2 * num) % 2, "seed": np.arange(2 * num),
        "token_ids": pa.array([item.token_ids for item in items], tokens),
        "num_tokens": pa.array([len(item.token_ids) for item in items]), "text": pa.repeat("words", 2 * num),
        "finish_reason": pa.repeat("stop", 2 * num), "policy_digest": pa.repeat(DIGEST, 2 * num),
        "policy_round": pa.repeat(0, 2 * num), "sampler_logp": pa.array(sampler_logp),
    }  # fmt: skip
    writer = store.writer(1, "sample", "f" * 64, [(1, "prompts")])
    writer.write_shard(0, pa.table(responses).cast(schema(Response)))
    sampled = SampleOutcome(
        num_prompts=num, num_responses=2 * num, num_tokens=0, num_truncated=0, num_duplicates=0, drop_reasons={},
        quarantined={}, policy_digest=DIGEST, weight_changes=[], engines=[], num_tokens_sampled=0, sampling_seconds=1.0,
        num_mixed=0, stop_token_ids=[],
    )  # fmt: skip
    writer.commit(1, "", 0.0, sampled)
    sides = {
        "chosen_response_id": responses["response_id"][::2],
        "rejected_response_id": responses["response_id"][1::2],
    }
    writer = store.writer(1, "pair", "f" * 64, [(1, "sample")])
    writer.write_shard(0, schema(Unused).empty_table())
    writer.write_shard(0, pa.table(sides), CANDIDATES)
    paired = PairOutcome(
        num_pairs=num, num_prompts_paired=num, unused_reasons={}, length_penalty=0.0, length_fit=None, length_gap_mean=None,
        gates_forced=[],
    )  # fmt: skip
    writer.commit(1, "", 0.0, paired)
