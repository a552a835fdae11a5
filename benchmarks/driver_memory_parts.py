"""The parts of the benchmark `driver_memory`, each in a process of its own: `make FOLDER PROMPTS` and `STAGE FOLDER PROMPTS`."""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.child import peak_bytes
from benchmarks.fake_backends import FakeLogprobs, FakeScorer, one_step
from benchmarks.local_pool import LocalPool
from selfplay.config.load import validate
from selfplay.core.outcomes import PromptsOutcome, SampleOutcome
from selfplay.core.pool import Workers
from selfplay.core.protocols import StepMetrics, TrainJob, TrainResult
from selfplay.core.records import Prompt, Response, schema
from selfplay.core.stages import stage_named
from selfplay.execution.progress import Reporter
from selfplay.inputs.metric_requirements import Ranking
from selfplay.inputs.models.thinking import Thinking
from selfplay.run.driver import stage_settings
from selfplay.run.stages.context import StageContext
from selfplay.selection.metrics import find_metric
from selfplay.store import durable
from selfplay.store.durable import pretty_json
from selfplay.store.run import Store

NUM_RESPONSES, NUM_TOKENS, PROMPT_TOKENS = 8, 500, 100
LETTERS_A_TOKEN = 4
SHARD_SIZE = 64
VOCABULARY = 32_000
DIGEST = "a" * 64


def settings_of(num_prompts: int) -> dict[str, Any]:
    """The configuration of the run."""
    document = {
        "policy": {"model": "/models/policy"},
        "prompts": {"source": "/data/train.jsonl", "column": "question", "per_round": num_prompts},
        "sampling": {"num_responses": NUM_RESPONSES, "max_tokens": 2 * NUM_TOKENS, "shard_size": SHARD_SIZE},
        "reward": {"model": "/models/reward"},
        "selection": {"keep": 1.0},
        "training": {"beta": 0.1, "learning_rate": 1e-6, "batch_size": 128},
        "rounds": 1,
    }
    return validate(document, "driver_memory").model_dump(mode="json")


def make(folder: Path, num_prompts: int) -> dict[str, Any]:
    """A run with the tables of *prompts* and *sample*."""
    resolved = pretty_json(settings_of(num_prompts))
    store = Store.create(folder / "run", {"resolved.json": resolved})
    policy = folder / "policy"
    policy.mkdir()
    (policy / "config.json").write_text("{}")
    # the run is removed after the measurement, so nothing needs to be durable
    durable.operations.fsync = lambda file: None  # type: ignore[method-assign]
    durable.operations.fsync_folder = lambda folder: None  # type: ignore[method-assign]
    prompts = store.writer(1, "prompts", "f" * 64, [])
    prompts.write_shard(0, _prompts(num_prompts))
    outcome = PromptsOutcome(
        num_prompts=num_prompts, num_admitted=num_prompts, drop_reasons={}, num_bad_rows=0, bad_rows=[],
        prompt_tokens=num_prompts * PROMPT_TOKENS,
    )  # fmt: skip
    prompts.commit(1, "", 0.0, outcome)
    sample = store.writer(1, "sample", "f" * 64, [(1, "prompts")])
    for index, table in enumerate(_responses(num_prompts)):
        sample.write_shard(index, table)
    num = num_prompts * NUM_RESPONSES
    sampled = SampleOutcome(
        num_prompts=num_prompts, num_responses=num, num_tokens=num * NUM_TOKENS, num_truncated=0, num_duplicates=0,
        drop_reasons={}, quarantined={}, policy_digest=DIGEST, weight_changes=[], engines=[], num_tokens_sampled=num,
        sampling_seconds=1.0, num_mixed=0, stop_token_ids=[2],
    )  # fmt: skip
    sample.commit(1, "", 0.0, sampled)
    return {"num_responses": num, "table_bytes": sum(path.stat().st_size for path in folder.rglob("*.parquet"))}


def _ids(prompt: Any) -> pa.Array:
    return pa.array(np.char.mod("%016x", prompt))


def _tokens(generator: np.random.Generator, num: int, length: int) -> pa.Array:
    flat = pa.array(generator.integers(3, VOCABULARY, num * length, dtype=np.int32))
    return pa.ListArray.from_arrays(pa.array(np.arange(num + 1) * length, pa.int32()), flat)


def _texts(generator: np.random.Generator, num: int, length: int) -> pa.Array:
    letters = generator.integers(ord("a"), ord("z") + 1, num * length, dtype=np.uint8)
    offsets = np.arange(num + 1, dtype=np.int32) * length
    return pa.StringArray.from_buffers(num, pa.py_buffer(offsets), pa.py_buffer(letters))


def _prompts(num: int) -> pa.Table:
    generator = np.random.default_rng(0)
    texts = _texts(generator, num, PROMPT_TOKENS * LETTERS_A_TOKEN)
    turns = pa.StructArray.from_arrays([pa.repeat("user", num), texts], ["role", "content"])
    columns = {
        "prompt_id": _ids(np.arange(num)), "round": pa.repeat(1, num), "source_file": pa.repeat("train.jsonl", num),
        "source_row": np.arange(num), "messages": pa.ListArray.from_arrays(pa.array(np.arange(num + 1), pa.int32()), turns),
        "prompt_token_ids": _tokens(generator, num, PROMPT_TOKENS), "num_prompt_tokens": pa.repeat(PROMPT_TOKENS, num),
        "columns_json": pa.repeat('{"topic":"benchmark"}', num), "drop_reason": pa.nulls(num, pa.string()),
    }  # fmt: skip
    return pa.table(columns).cast(schema(Prompt))


def _responses(num_prompts: int) -> Iterator[pa.Table]:
    generator = np.random.default_rng(1)
    for first in range(0, num_prompts, SHARD_SIZE):
        prompt = np.repeat(np.arange(first, min(first + SHARD_SIZE, num_prompts)), NUM_RESPONSES)
        num = len(prompt)
        index = np.arange(num) % NUM_RESPONSES
        ids = _ids(prompt)
        names = np.char.add(np.char.add(ids.to_numpy(zero_copy_only=False).astype(str), "-r001-"), index.astype(str))
        columns = {
            "response_id": pa.array(names), "prompt_id": ids, "round": pa.repeat(1, num), "response_index": index,
            "seed": index, "token_ids": _tokens(generator, num, NUM_TOKENS), "num_tokens": pa.repeat(NUM_TOKENS, num),
            "text": _texts(generator, num, NUM_TOKENS * LETTERS_A_TOKEN), "finish_reason": pa.repeat("stop", num),
            "policy_digest": pa.repeat(DIGEST, num), "policy_round": pa.repeat(0, num),
            "sampler_logp": pa.nulls(num, pa.float64()),
        }  # fmt: skip
        yield pa.table(columns).cast(schema(Response))


class _Trainer:
    """Reads the pairs of the first optimizer step."""

    def train(self, job: TrainJob, progress: Callable[[StepMetrics], None]) -> TrainResult:
        assert all(len(pair.chosen_token_ids) == NUM_TOKENS for pair in job.pairs[: job.batch_size])
        policy = Path(job.output_dir) / "policy"
        policy.mkdir(parents=True)
        (policy / "config.json").write_text("{}")
        return one_step(job, progress)


def run_stage(stage: str, folder: Path, num_prompts: int) -> dict[str, Any]:
    """Run one stage, and what it needed."""
    config = validate(settings_of(num_prompts), "driver_memory")
    metric = find_metric("alignment_potential")
    # what these stages read of a run's inputs
    inputs: Any = SimpleNamespace(
        policy=SimpleNamespace(folder=folder / "policy", digest=DIGEST), gold_on_training=False, gold_lacks=(),
        ranking=Ranking(metric, metric, config.selection.implicit_margin), max_length=4096, mix=None, reference=None,
        renderer=SimpleNamespace(thinking=Thinking()),
    )  # fmt: skip
    module, _, name = stage_named(stage).function.partition(":")
    function = getattr(importlib.import_module(module), name)
    context = StageContext(
        store=Store.open(folder / "run"), settings=stage_settings(config), inputs=inputs,
        workers=Workers(LocalPool(None), LocalPool(FakeScorer()), LocalPool(FakeLogprobs()), LocalPool(_Trainer())),
        fingerprint="f" * 64, attempt=1, versions={}, reporter=Reporter(quiet=True),
    )  # fmt: skip
    durable.operations.fsync = lambda file: None  # type: ignore[method-assign]
    durable.operations.fsync_folder = lambda folder: None  # type: ignore[method-assign]
    before, start = peak_bytes(), time.perf_counter()
    function(context, 1)
    seconds, peak = time.perf_counter() - start, peak_bytes()
    return {"seconds": round(seconds, 1), "peak_bytes": peak, "growth_bytes": peak - before}


if __name__ == "__main__":
    what, root, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    print(json.dumps(make(root, count) if what == "make" else run_stage(what, root, count)))
