"""Benchmark `rounds`: a whole warm round on the real stack, over the plain versions of the same work.

A run samples, scores, ranks, trains and gives its engine the new weights. From its second round on all workers are warm. Between
two rounds, while the run waits, the plain versions do the work of the round that has ended (`plain_loops`, `published_loop`), in
warm processes of one thread each, in an order that is reversed every second time. So both take turns.

- the sum of the bare stages, one after the other: `LLM.generate`, sorted batch loops for rewards and log-probs, a plain DPO loop,
  and a change of the engine's weights
- the published loops: a new process and a cold engine for each stage
- TRL's OnlineDPOTrainer for the same prompts and as many updates
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pyarrow.compute as pc

from benchmarks import plain_loops
from benchmarks.figures import Figure, Given, Measured, median_of, ratios
from benchmarks.plain_loops import RoundWork, Sampling, Took
from benchmarks.published_loop import time_published
from selfplay import api
from selfplay.core.observer import Observer
from selfplay.core.outcomes import SampleOutcome
from selfplay.core.protocols import TrainJob, TrainPair
from selfplay.core.timing import Record
from selfplay.execution.progress import Reporter
from selfplay.quickstart.world import World, prepare
from selfplay.run import driver
from selfplay.run.observers import Observed
from selfplay.store.run import Store

BATCH = 16
MAX_TOKENS, MAX_MODEL_LEN = 64, 2048
# stage of a run -> the plain version of it
PARTS = {"sample": "sample", "score": "score", "logprobs": "logprobs", "train": "train", "evaluate": "weights"}
# the rounds before this one start the workers and change the weights for the first time
FIRST = 2


@dataclass(frozen=True, slots=True)
class Size:
    """A policy (None: that of the small world), prompts and updates of a round, and the bar of TRL's online trainer."""

    name: str
    sizes: dict[str, int] | None
    num_prompts: int
    bar_online_dpo: float


SIZES = (
    Size("small world", None, 256, 0.5),
    Size(
        "11 M",
        {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 6},
        128,
        0.65,
    ),
)


def measure(given: Given) -> Measured:
    """Ratios of wall time and of processor time."""
    figures, details = [], {}
    with given.scratch() as root:
        world = prepare(root / "world", 0)
        for size in SIZES:
            found = _measure(given, size, world, root / size.name.replace(" ", "-"))
            figures += found.figures
            details[size.name] = found.details
    return Measured(figures, details)


@dataclass(slots=True)
class _Turns:
    """The seconds of each alternative, one value for each measured round."""

    ours: list[Took] = field(default_factory=list)
    our_stages: dict[str, list[float]] = field(default_factory=dict)
    plain: dict[str, list[Took]] = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)


class _Between(Observer):
    """Times the rounds of a run, and lets the plain versions work between them."""

    required = True

    def __init__(self, turns: _Turns, begin: Callable[[int], None], plain: Callable[[int], dict[str, Took]]) -> None:
        self._turns, self._begin, self._plain = turns, begin, plain
        self._started: dict[str, float] = {}
        self._seconds: dict[str, float] = {}
        self._processor = 0.0

    def on_stage(self, round_number: int, stage: str) -> None:
        if stage == "prompts":
            self._processor = _processor_seconds()
        self._started[stage] = time.perf_counter()

    def on_timing(self, round_number: int, stage: str, spent: Record) -> None:
        self._seconds[stage] = time.perf_counter() - self._started[stage]

    def on_round(self, round_number: int) -> None:
        if round_number == 0:
            return
        wall = time.perf_counter() - self._started["prompts"]
        ours = Took(wall, _processor_seconds() - self._processor)
        if round_number < FIRST:
            self._begin(round_number)
            return
        self._turns.ours.append(ours)
        for stage, seconds in self._seconds.items():
            self._turns.our_stages.setdefault(stage, []).append(seconds)
        for name, took in self._plain(round_number).items():
            self._turns.plain.setdefault(name, []).append(took)


def _processor_seconds() -> float:
    """Of this process and of all that live under it: Ray and the workers."""
    total = 0.0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def _measure(given: Given, size: Size, world: World, root: Path) -> Measured:
    root.mkdir()
    num_prompts = max(BATCH, given.scaled(size.num_prompts) // BATCH * BATCH)
    policy, reward = world.folder / "policy", str(world.folder / "reward_model")
    turns = _Turns()
    os.environ["OMP_NUM_THREADS"] = "1"
    new = partial(ProcessPoolExecutor, 1, mp_context=multiprocessing.get_context("spawn"))
    with new() as engine, new() as loops:
        if size.sizes is not None:
            own = root / "policy"
            loops.submit(plain_loops.make_policy, own, policy, size.sizes).result()
            policy = own

        def begin(number: int) -> None:
            work = _work_of(Store.open(root / "run"), number, root)
            engine.submit(plain_loops.start_engine, str(policy), MAX_MODEL_LEN).result()
            loops.submit(plain_loops.start_loops, reward, work).result()
            engine.submit(plain_loops.time_engine, work).result()
            loops.submit(plain_loops.time_online_dpo, work, str(root / "online")).result()

        def plain(number: int) -> dict[str, Took]:
            work = _work_of(Store.open(root / "run"), number, root)
            turns.tokens.append(sum(len(token_ids) for _, _, token_ids in work.responses))
            sizes = loops.submit(plain_loops.sizes_of_loops).result()
            alternatives: list[Callable[[], dict[str, Took]]] = [
                lambda: engine.submit(plain_loops.time_engine, work).result(),
                lambda: loops.submit(plain_loops.time_loops, work).result(),
                lambda: {"online_dpo": loops.submit(plain_loops.time_online_dpo, work, str(root / "online")).result()},
                lambda: {"published": time_published(work, reward, sizes, MAX_MODEL_LEN, root / "published")},
            ]
            found: dict[str, Took] = {}
            for alternative in alternatives[::-1] if number % 2 else alternatives:
                found |= alternative()
            return found

        _run(
            _settings(policy, world, num_prompts, FIRST - 1 + given.num_runs),
            root / "run",
            _Between(turns, begin, plain),
        )
        sizes = loops.submit(plain_loops.sizes_of_loops).result()
    return Measured(_figures(size, num_prompts, turns), {"batches": sizes, "turns": _document(turns)})


def _settings(policy: Path, world: World, num_prompts: int, rounds: int) -> dict[str, Any]:
    return {
        "policy": {"model": str(policy)},
        "prompts": {"source": str(world.folder / "prompts.jsonl"), "column": "prompt", "per_round": num_prompts},
        "sampling": {"num_responses": 2, "temperature": 0.8, "top_p": 0.95, "max_tokens": MAX_TOKENS},
        "reward": {"model": str(world.folder / "reward_model")},
        "pairs": {"allow_truncated": True},
        "selection": {"keep": 1.0},
        "training": {"beta": 0.1, "learning_rate": 1e-4, "batch_size": BATCH, "max_steps": num_prompts // BATCH},
        "storage": {"keep_policies": "all"},
        # a random policy says nonsense
        "gates": {"max_truncated": 1.0, "max_repeated": 1.0, "max_identical": 1.0, "max_empty": 1.0},
        "rounds": rounds,
    }


def _run(settings: dict[str, Any], folder: Path, between: Observer) -> None:
    reporter = Reporter(quiet=True)
    prepared, given = api.preflight(settings, run_dir=folder, reporter=reporter)

    def observers(observed: Observed) -> Sequence[Observer]:
        # last, so that the report of a round is part of it
        return [*api.standard_observers(observed), between]

    driver.run(prepared, given, [], reporter, observers=observers)


def _work_of(store: Store, number: int, root: Path) -> RoundWork:
    """What a round of the run did."""
    prompts = store.table(number, "prompts", columns=["prompt_id", "messages", "prompt_token_ids"])
    sampled = store.table(number, "sample", columns=["response_id", "prompt_id", "seed", "token_ids", "text"])
    kept = store.table(
        number, "select", columns=["pair_id", "prompt_id", "chosen_response_id", "rejected_response_id", "kept"]
    )
    kept = kept.filter(kept["kept"])
    logprobs = store.table(number, "logprobs", columns=["response_id", "policy_logp"])
    row_of_prompt = {name: row for row, name in enumerate(prompts["prompt_id"].to_pylist())}
    prompt_of = [row_of_prompt[name] for name in sampled["prompt_id"].to_pylist()]
    row_of = {name: row for row, name in enumerate(sampled["response_id"].to_pylist())}
    token_ids, prompt_ids = sampled["token_ids"].to_pylist(), prompts["prompt_token_ids"].to_pylist()
    seeds: list[list[int]] = [[] for _ in prompt_ids]
    for prompt, seed in zip(prompt_of, sampled["seed"].to_pylist(), strict=True):
        seeds[prompt].append(seed)
    logp = dict(zip(*(logprobs[name].to_pylist() for name in logprobs.column_names), strict=True))
    pairs = []
    for pair in kept.to_pylist():
        chosen, rejected = pair["chosen_response_id"], pair["rejected_response_id"]
        logps = (logp[chosen], logp[rejected])
        pairs.append(
            TrainPair(
                pair["pair_id"], prompt_ids[row_of_prompt[pair["prompt_id"]]], token_ids[row_of[chosen]],
                token_ids[row_of[rejected]], *logps, *logps,
            )
        )  # fmt: skip
    before = store.layout.stage(number - 1, "train") / "policy"
    config = store.config_json("resolved.json", dict)
    policy = str(before) if number > 1 else config["policy"]["model"]
    outcome = store.outcome(number, SampleOutcome)
    training = config["training"]
    return RoundWork(
        policy, prompts["messages"].to_pylist(), prompt_ids, seeds,
        Sampling(2, config["sampling"]["temperature"], config["sampling"]["top_p"], MAX_TOKENS, tuple(outcome.stop_token_ids)),
        list(zip(prompt_of, sampled["text"].to_pylist(), token_ids, strict=True)),
        pc.index_in(logprobs["response_id"], value_set=sampled["response_id"].combine_chunks()).to_pylist(),
        TrainJob(
            pairs=pairs, policy_dir=policy, output_dir=str(root / "plain"), checkpoint_dir=str(root / "checkpoints"), seed=0,
            loss="dpo", beta=training["beta"], gamma_beta_ratio=None, learning_rate=training["learning_rate"], epochs=1,
            batch_size=BATCH, micro_batch_size=BATCH, max_length=MAX_MODEL_LEN, warmup_ratio=0.1, schedule="cosine",
            precision="float32", engine_dtype="float32", checkpoint_every=0, reference_is_policy=True,
            max_steps=training["max_steps"],
        ),
    )  # fmt: skip


def _figures(size: Size, num_prompts: int, turns: _Turns) -> list[Figure]:
    name = f"round, {size.name}"
    work = (
        f"{num_prompts} prompts x 2 responses of at most {MAX_TOKENS} tokens, {num_prompts // BATCH} updates of {BATCH} "
        "pairs, one thread a process"
    )
    figures = []
    for clock in ("wall", "processor"):

        def seconds(took: Sequence[Took], clock: str = clock) -> list[float]:
            return [getattr(each, clock) for each in took]

        ours = seconds(turns.ours)
        bare = [sum(each) for each in zip(*(seconds(turns.plain[part]) for part in PARTS.values()), strict=True)]
        of = f"{name}, {clock}: over"
        for label, other, bar in (
            ("the sum of the bare stages", bare, 1.1),
            ("the published loops", seconds(turns.plain["published"]), 0.5),
            ("OnlineDPOTrainer", seconds(turns.plain["online_dpo"]), size.bar_online_dpo),
        ):
            figures.append(median_of(f"{of} {label}", ratios(ours, other), "x", work, bar=bar, clock=clock))
    for stage, part in PARTS.items():
        over = ratios(turns.our_stages[stage], [each.wall for each in turns.plain[part]])
        label = "the change of weights" if stage == "evaluate" else f"*{stage}*"
        figures.append(median_of(f"{name}: {label} over the bare one", over, "x", work))
    for label, plain in (("", "sample"), (" without seeds", "sample without seeds")):
        over = ratios([each.wall for each in turns.plain[plain]], turns.our_stages["sample"])
        text = f"{name}: tokens/s of *sample* over LLM.generate{label}"
        figures.append(median_of(text, over, "x", work, bar=0.95, at_least=True))
    return figures


def _document(turns: _Turns) -> dict[str, Any]:
    return {
        "ours": [[each.wall, each.processor] for each in turns.ours],
        "our stages": turns.our_stages,
        "plain": {name: [[each.wall, each.processor] for each in took] for name, took in turns.plain.items()},
        "tokens": turns.tokens,
    }
