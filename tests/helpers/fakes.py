"""Fakes of the backends: quick, deterministic, and honest about what they were asked (each counts its calls).

A fake sampler answers with tokens derived from the seed alone, so that a resumed run can be compared with an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors.numpy import load_file, save_file

from benchmarks.fake_backends import fake_result
from benchmarks.local_pool import LocalPool
from selfplay.config.schema import Config
from selfplay.core.answer_schemas import ENGINES_SCHEMA
from selfplay.core.machine import DeviceFacts
from selfplay.core.pool import Call, WorkerCrash, Workers
from selfplay.core.protocols import (
    Canary,
    LogprobItem,
    Question,
    SampleRequest,
    SamplingSettings,
    ScoreItem,
    StepMetrics,
    TrainJob,
    TrainResult,
    WeightSync,
)
from selfplay.inputs.resolve import Inputs

END = 2


def fake_logp(digest: str, token_ids: Sequence[int]) -> float:
    return -0.1 * sum(token_ids) / 7 - 0.01 * (int(digest[:4], 16) % 10)


def at_call(victim: Any, method: str, number: int, action: Callable[[], None]) -> None:
    """Have a fake do something else first when it is called for the `number`-th time."""
    real, calls = getattr(victim, method), []

    def acting(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == number:
            action()
        return real(*arguments)

    setattr(victim, method, acting)


class FakeSampler:
    """`logp_error`: what is added to the log-probs that it gives where it is asked for them; None: it gives none."""

    def __init__(self, logp_error: float | None = None) -> None:
        self.logp_error = logp_error
        self.requests: list[str] = []
        self.loaded: list[str] = []

    def describe(self) -> dict[str, Any]:
        return {"engine": "fake"}

    def load_policy(self, folder: str, digest: str, canaries: Sequence[Canary]) -> WeightSync:
        assert Path(folder).is_dir()
        self.loaded.append(digest)
        return WeightSync("loaded", 0.0, None)

    def sample(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> pa.Table:
        rows = []
        for request in requests:
            self.requests.append(request.prompt_id)
            for index in request.indices(settings):
                seed = (request.seed + index) % 2**31
                length = random.Random(seed).randint(1, settings.max_tokens + 2)
                finish = "stop" if length <= settings.max_tokens else "length"
                tokens = [10 + random.Random(seed + i).randrange(50) for i in range(min(length, settings.max_tokens))]
                if finish == "stop":
                    tokens[-1] = END
                text = " ".join(str(token) for token in tokens if token != END)
                logp = None
                if settings.logprobs and self.logp_error is not None:
                    logp = fake_logp(self.loaded[-1], tokens) + self.logp_error * len(tokens)
                rows.append((request.prompt_id, index, seed, tokens, len(tokens), text, finish, logp))
        names = [
            "prompt_id",
            "response_index",
            "seed",
            "token_ids",
            "num_tokens",
            "text",
            "finish_reason",
            "sampler_logp",
        ]
        return pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)})


class FakeScorer:
    """`engine_error` is what vLLM adds to each reward, `problem` the reason why it has none. `engines` has what each call
    asked for."""

    def __init__(self, scale: float = 1.0, *, engine_error: float = 0.0, problem: str = "") -> None:
        self.scored: list[str] = []
        self.engines: list[str] = []
        self.compared: list[str] = []
        self.scale, self.engine_error, self.problem = scale, engine_error, problem

    def compare(self, items: Sequence[ScoreItem]) -> pa.Table:
        self.compared += [item.response_id for item in items]
        exact = [self._value(item) if place < 8 else None for place, item in enumerate(items)]
        ours = [None if value is None or self.problem else value + self.engine_error for value in exact]
        columns = [[item.response_id for item in items], exact, ours, [self.problem or None] * len(items)]
        return pa.table(columns, schema=ENGINES_SCHEMA)

    def _value(self, item: ScoreItem) -> float:
        return self.scale * (sum(map(ord, item.response)) % 17)

    def score(self, items: Sequence[ScoreItem], engine: str = "transformers") -> pa.Table:
        self.scored += [item.response_id for item in items]
        self.engines.append(engine)
        error = self.engine_error if engine == "vllm" else 0.0
        values = [self._value(item) + error for item in items]
        return pa.table(
            {
                "response_id": pa.array([item.response_id for item in items], pa.string()),
                "reward": pa.array(values, pa.float64()),
                "drop_reason": pa.nulls(len(items), pa.string()),
            }
        )


class FakeLogprobs:
    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        # what only some metrics ask for: (method, response id)
        self.made: list[tuple[str, str]] = []
        self.dtypes: list[str] = []

    def logprobs(self, folder: str, digest: str, items: Sequence[LogprobItem]) -> pa.Table:
        self.calls += [(digest, item.response_id) for item in items]
        logps = [fake_logp(digest, item.token_ids) for item in items]
        return pa.table(
            {
                "response_id": [item.response_id for item in items],
                "logp": pa.array(logps, pa.float64()),
                "num_tokens": pa.array([len(item.token_ids) for item in items], pa.int64()),
            }
        )

    def logprobs_alone(self, folder: str, digest: str, items: Sequence[LogprobItem], start_token_id: int) -> pa.Table:
        self.made += [("logprobs_alone", item.response_id) for item in items]
        logps = [-0.15 * sum(item.token_ids) / 7 - 0.001 * start_token_id for item in items]
        return pa.table(
            {
                "response_id": [item.response_id for item in items],
                "logp": pa.array(logps, pa.float64()),
                "num_tokens": pa.array([len(item.token_ids) for item in items], pa.int64()),
            }
        )

    def yes_probability(
        self, folder: str, digest: str, questions: Sequence[Question], answers: Sequence[Sequence[int]]
    ) -> pa.Table:
        self.made += [("yes_probability", question.response_id) for question in questions]
        values = [(sum(question.prompt_token_ids) % 97) / 97 for question in questions]
        ids = pa.array([question.response_id for question in questions], pa.string())
        return pa.table({"response_id": ids, "probability": pa.array(values, pa.float64())})

    def embeddings(self, folder: str, digest: str, items: Sequence[LogprobItem]) -> pa.Table:
        self.made += [("embeddings", item.response_id) for item in items]
        rows = [[float(len(item.token_ids)), float(item.token_ids[0] % 7), float(item.token_ids[-1])] for item in items]
        ids = pa.array([item.response_id for item in items], pa.string())
        return pa.table({"response_id": ids, "embedding": pa.array(rows, pa.list_(pa.float32(), 3))})

    def use_dtype(self, dtype: str) -> None:
        self.dtypes.append(dtype)

    def release(self) -> None:
        pass


class FakeTrainer:
    """Adds a constant that depends on the pairs to every weight of `policy_dir`."""

    def __init__(self) -> None:
        self.jobs: list[TrainJob] = []

    def train(self, job: TrainJob, progress: Callable[[StepMetrics], None]) -> TrainResult:
        # the file of pairs is removed after the training
        self.jobs.append(dataclasses.replace(job, pairs=list(job.pairs)))
        output = Path(job.output_dir, "policy")
        if output.exists():
            shutil.rmtree(output)
        shutil.copytree(job.policy_dir, output)
        weights = load_file(output / "model.safetensors")
        shift = np.float32(0.001 * len(job.pairs) + 1e-6 * sum(map(ord, job.pairs[0].pair_id)))
        save_file(
            {name: value + shift for name, value in weights.items()}, output / "model.safetensors", {"format": "pt"}
        )
        steps = job.max_steps or -(-len(job.pairs) // job.batch_size) * job.epochs
        log = [StepMetrics(step, steps, 0.69, job.learning_rate, 1.0, 0.5, 0.0) for step in range(1, steps + 1)]
        for line in log:
            progress(line)
        return fake_result(job, log, num_steps=steps)


# what the workers of fakes report, unless a test chooses other facts
DEVICE = DeviceFacts("fake", (), 64 << 30, 64 << 30, None, 2)


class FakePool(LocalPool):
    """A pool of `num_workers` that share one backend and finish in an order that `seed` decides. A worker dies in a call that
    holds the id of a poison: as in the Ray pool, without processes."""

    def __init__(
        self,
        backend: Any,
        poison: Collection[str] = (),
        *,
        num_workers: int = 1,
        seed: int = 0,
        devices: Sequence[DeviceFacts] = (DEVICE,),
    ) -> None:
        super().__init__(backend)
        self.poison = poison
        self.num_workers, self._order, self._facts = num_workers, random.Random(seed), list(devices)
        self.num_crashes = 0
        self._events: list[str] = []

    def devices(self) -> list[DeviceFacts]:
        return [self._facts[index % len(self._facts)] for index in range(self.num_workers)]

    def map(self, method: str, calls: Iterable[Call | None], window: int = 2) -> Iterator[tuple[int, Any]]:
        running: list[tuple[int, Any]] = []
        for call in calls:
            if call is None:
                time.sleep(0.001)
                if running:
                    yield running.pop(self._order.randrange(len(running)))
                continue
            running.append((call.key, self._run(method, call)))
            if len(running) == self.num_workers:
                yield running.pop(self._order.randrange(len(running)))
        self._order.shuffle(running)
        yield from running

    def _run(self, method: str, call: Call) -> Any:
        items = [item for argument in call.args if isinstance(argument, list) for item in argument]
        if any(is_of(item) in self.poison for item in items if isinstance(item, ITEMS)):
            assert call.max_crashes is not None
            self.num_crashes += call.max_crashes
            self._events += [f"worker 0 died (killed by {method}) and is replaced"] * call.max_crashes
            return WorkerCrash(f"killed by {method}", call.max_crashes)
        return getattr(self.backend, method)(*call.args)

    def broadcast(self, method: str, *args: Any) -> list[Any]:
        return [getattr(self.backend, method)(*args) for _ in range(self.num_workers)]

    def drain_events(self) -> list[str]:
        events, self._events = self._events, []
        return events


ITEMS = (SampleRequest, ScoreItem, LogprobItem, Question)


def is_of(item: SampleRequest | ScoreItem | LogprobItem | Question) -> str:
    return item.prompt_id if isinstance(item, SampleRequest) else item.response_id


class Fakes:
    """One set of fakes, and the workers made of them. `poison`: ids of prompts and responses that kill their workers;
    `num_workers` of each role but the trainer, which finish in an order that `seed` decides; `devices`: what they report;
    `own_devices`: the roles that may work side by side; `logp_error`: see FakeSampler."""

    def __init__(
        self,
        gold: bool = True,
        poison: Collection[str] = (),
        *,
        num_workers: int = 1,
        seed: int = 0,
        devices: Sequence[DeviceFacts] = (DEVICE,),
        trainer_device: DeviceFacts = DEVICE,
        own_devices: Collection[str] = (),
        logp_error: float | None = None,
    ) -> None:
        self.poison, self.own_devices = poison, frozenset(own_devices)
        self._options = {"num_workers": num_workers, "seed": seed, "devices": devices}
        self._trainer_device = trainer_device
        self.pools: list[FakePool] = []
        self.sampler, self.scorer, self.logprobs, self.trainer = (
            FakeSampler(logp_error),
            FakeScorer(),
            FakeLogprobs(),
            FakeTrainer(),
        )
        self.gold = FakeScorer(0.1) if gold else None
        # of a combined reward, by name; what a test does not put here is made when the workers are
        self.parts: dict[str, FakeScorer] = {}

    @contextlib.contextmanager
    def __call__(self, config: Config, inputs: Inputs, folder: Path) -> Iterator[Workers]:
        def pool(backend: Any) -> FakePool:
            self.pools.append(FakePool(backend, self.poison, **self._options))
            return self.pools[-1]

        yield Workers(
            pool(self.sampler),
            None if config.reward.parts else pool(self.scorer),
            pool(self.logprobs),
            FakePool(self.trainer, devices=[self._trainer_device]),
            pool(self.gold) if self.gold else None,
            {name: pool(self.parts.setdefault(name, FakeScorer())) for name in config.reward.parts},
            self.own_devices,
        )
