"""Stages that run side by side, on fakes: the rows of a run are those of stages that take turns, whatever happens in between."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from selfplay.core.errors import BackendError, Interrupted, SelfplayError
from selfplay.core.stages import CANDIDATES
from selfplay.inspect.verify.verify import verify_document
from selfplay.run import loop
from selfplay.store.run import Store
from tests.helpers.fakes import Fakes, FakeSampler, FakeScorer
from tests.helpers.stages import every_stage
from tests.run.test_loop import resume, start

WriteConfig = Callable[..., Path]

OWN = ("sampler", "scorer", "logprobs")
TABLES = (("sample", ""), ("score", ""), ("pair", ""), ("pair", CANDIDATES), ("logprobs", ""), ("select", ""))


def rows(store: Store) -> dict[str, pa.Table]:
    """What the first round holds."""
    return {f"{stage}{table}": store.table(1, stage, table) for stage, table in TABLES}


@pytest.fixture
def config(write_config: WriteConfig) -> Path:
    return write_config(rounds=1, evaluation=None, sampling={"shard_size": 2, "num_responses": 3})


def test_groups_follow_the_devices() -> None:
    assert loop.groups(1, OWN)[:3] == [["prompts"], ["sample", "score", "pair", "logprobs"], ["select"]]
    assert loop.groups(1, ("sampler", "scorer"))[1:3] == [["sample", "score", "pair"], ["logprobs"]]
    assert loop.groups(1, ("sampler", "logprobs"))[1:4] == [["sample"], ["score"], ["pair", "logprobs"]]
    assert [name for group in loop.groups(1, OWN) for name in group] == [
        name for number, name in every_stage(1) if number
    ]
    assert loop.groups(0, OWN) == [["prompts"], ["evaluate"]]


class Together:
    """A sampler and a scorer that wait for each other: the third shard is sampled when the first one is scored."""

    def __init__(self) -> None:
        self.scored = threading.Event()

    def sampler(self) -> FakeSampler:
        first, scored = FakeSampler(), self.scored
        sample = first.sample

        def wait(requests: Any, settings: Any) -> pa.Table:
            assert len(first.requests) < 4 or scored.wait(60), "nothing was scored while the sampler worked"
            return sample(requests, settings)

        first.sample = wait  # type: ignore[method-assign]
        return first

    def scorer(self) -> FakeScorer:
        found, scored = FakeScorer(), self.scored
        score = found.score

        def say(items: Any) -> pa.Table:
            scored.set()
            return score(items)

        found.score = say  # type: ignore[method-assign]
        return found


def test_a_shard_is_scored_while_later_ones_are_sampled(config: Path, tmp_path: Path) -> None:
    whole = start(config, tmp_path / "turns", Fakes(gold=False))
    fakes, together = Fakes(gold=False, own_devices=OWN), Together()
    fakes.sampler, fakes.scorer = together.sampler(), together.scorer()
    store = start(config, tmp_path / "run", fakes)
    assert rows(store) == rows(whole)
    sample, score, pair = (store.commit_of(1, name) for name in ("sample", "score", "pair"))
    assert score.inputs["001/sample"] == pair.inputs["001/sample"] == store.digest_of(1, "sample")
    assert pair.inputs["001/score"] == store.digest_of(1, "score")
    assert len(sample.files) == len(score.files) == 11
    assert verify_document(store.layout.root, deep=True)["ok"]


class Erring:
    """Makes fakes whose calls end a run now and then: a stop that the user asks for, or an error."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def fakes(self, **how: Any) -> Fakes:
        fakes = Fakes(num_workers=3, seed=self.random.randrange(99), own_devices=OWN, **how)
        for backend, method in ((fakes.sampler, "sample"), (fakes.scorer, "score"), (fakes.gold, "score")):
            setattr(backend, method, self._unreliable(getattr(backend, method)))
        return fakes

    def _unreliable(self, method: Callable[..., pa.Table]) -> Callable[..., pa.Table]:
        def call(*args: Any) -> pa.Table:
            time.sleep(self.random.choice((0.0, 0.0, 0.003)))
            if self.random.random() < 0.12:
                raise BackendError("as a broken machine does", "Mend it.")
            return method(*args)

        return call


@pytest.mark.parametrize(
    "sections",
    [
        {},
        pytest.param({"pairs": {"length_penalty": "auto"}}, marks=pytest.mark.chaos),
        pytest.param(
            {
                "reward": {
                    "model": None,
                    "parts": {"a": {"function": "rewards.py:a"}, "b": {"function": "rewards.py:b"}},
                }
            },
            marks=pytest.mark.chaos,
        ),
    ],
    ids=["plain", "auto", "parts"],
)
def test_errors_at_any_time_and_resumes_give_the_rows_of_turns(
    write_config: WriteConfig, tmp_path: Path, sections: dict[str, Any]
) -> None:
    (tmp_path / "rewards.py").write_text(
        "def a(prompt, response):\n    return 1.0\n\n\ndef b(prompt, response):\n    return 2.0\n"
    )
    config = write_config(rounds=1, evaluation=None, sampling={"shard_size": 4, "num_responses": 3}, **sections)
    whole, num_failed = rows(start(config, tmp_path / "turns", Fakes())), 0
    for seed in range(1 if not sections else 6):
        erring, run = Erring(seed), tmp_path / f"run-{seed}"
        attempts: Iterator[Callable[[], Store]] = iter([lambda: start(config, run, erring.fakes())])  # noqa: B023
        for _ in range(40):
            attempt = next(attempts, lambda: resume(run, erring.fakes(), sampling=changed(config, erring)))  # noqa: B023
            try:
                store = attempt()
                break
            except SelfplayError as error:
                assert "as a broken machine does" in error.message
                num_failed += 1
        assert rows(store) == whole
        assert verify_document(run, deep=True)["ok"]
    assert num_failed > 0


def changed(config: Path, erring: Erring) -> dict[str, Any]:
    """The sampling settings, with another size of shards for what has not begun."""
    import yaml

    sampling: dict[str, Any] = yaml.safe_load(config.read_text())["sampling"]
    return sampling | {"shard_size": erring.random.choice([1, 2, 3, 5, 100])}


def test_a_stop_keeps_the_open_shards_of_every_stage(config: Path, tmp_path: Path) -> None:
    import os
    import signal

    fakes, together = Fakes(gold=False, own_devices=OWN), Together()
    fakes.sampler, fakes.scorer = together.sampler(), together.scorer()
    score = fakes.scorer.score

    def stop(items: Any) -> pa.Table:
        os.kill(os.getpid(), signal.SIGTERM)
        return score(items)

    fakes.scorer.score = stop  # type: ignore[method-assign]
    with pytest.raises(Interrupted) as stopped:
        start(config, tmp_path / "run", fakes)
    assert stopped.value.exit_code == 143
    assert Store.open(tmp_path / "run").attempt_documents()[-1]["end"]["outcome"] == "interrupted"
    second = Fakes(gold=False, own_devices=OWN)
    store = resume(tmp_path / "run", second)
    assert {*fakes.sampler.requests} & {*second.sampler.requests} == set()
    assert {*fakes.scorer.scored} & {*second.scorer.scored} == set()
    assert rows(store) == rows(start(config, tmp_path / "turns", Fakes(gold=False)))


def test_a_shard_that_is_sampled_anew_and_differs_is_scored_anew(config: Path, tmp_path: Path) -> None:
    class Broken(FakeScorer):
        def score(self, items: Any) -> pa.Table:
            if len(self.scored) >= 12:
                raise BackendError("broken", "Mend it.")
            return super().score(items)

    fakes = Fakes(gold=False)
    fakes.scorer = Broken()
    with pytest.raises(BackendError):
        start(config, tmp_path / "run", fakes)
    store = Store.open(tmp_path / "run")
    # the stage is lost, and the engine answers otherwise this time
    import shutil

    shutil.rmtree(store.layout.stage(1, "sample"))

    class Other(FakeSampler):
        def sample(self, requests: Any, settings: Any) -> pa.Table:
            table = super().sample(requests, settings)
            first = table["prompt_id"].to_pylist()[0]
            texts = [text + "!" if first == self.requests[0] else text for text in table["text"].to_pylist()]
            return table.set_column(table.column_names.index("text"), "text", [texts])

    second = Fakes(gold=False)
    second.sampler = Other()
    store = resume(tmp_path / "run", second)
    shards = [store.feed(1, "sample").read(index, ["response_id"])["response_id"].to_pylist() for index in (0, 1, 2)]
    # of the two shards that were scored, the first has other texts now
    assert {*shards[0]} <= {*second.scorer.scored}
    assert not {*shards[1]} & {*second.scorer.scored}
    assert {*shards[2]} <= {*second.scorer.scored}
    assert verify_document(store.layout.root, deep=True)["ok"]
