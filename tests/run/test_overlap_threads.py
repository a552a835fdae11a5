"""Stages that run side by side, on fakes: the rows of a run are those of stages that take turns, whatever happens in between."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from selfplay.core.errors import BackendError, Interrupted, SelfplayError
from selfplay.core.outcomes import LogprobsOutcome, ScoreOutcome
from selfplay.core.stages import CANDIDATES
from selfplay.inspect.verify.verify import verify_document
from selfplay.run.stages.logprob_source import NUM_CHECKED
from selfplay.store.run import Store
from tests.helpers.fakes import FakeLogprobs, Fakes, FakeSampler, FakeScorer
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


def meet(first: Any, method: str, after: int, *others: tuple[Any, str]) -> None:
    """Have a backend wait, before its call number `after`, for a first call of each of the others."""
    original, events, num_calls = getattr(first, method), [threading.Event() for _ in others], count()

    def wait(*args: Any) -> Any:
        assert next(num_calls) != after or all(event.wait(60) for event in events), (
            "another one was not asked meanwhile"
        )
        return original(*args)

    def said(event: threading.Event, other: Callable[..., Any]) -> Callable[..., Any]:
        def say(*args: Any) -> Any:
            event.set()
            return other(*args)

        return say

    setattr(first, method, wait)
    for event, (backend, name) in zip(events, others, strict=True):
        setattr(backend, name, said(event, getattr(backend, name)))


def test_a_shard_is_scored_and_passed_over_while_later_ones_are_sampled(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    config = write_config(
        rounds=1,
        evaluation=None,
        sampling={"shard_size": 2, "num_responses": 3},
        selection={"logprobs": {"source": "model"}},
    )
    whole = start(config, tmp_path / "turns", Fakes(gold=False))
    fakes = Fakes(gold=False, own_devices=OWN)
    meet(fakes.sampler, "sample", 3, (fakes.scorer, "score"), (fakes.logprobs, "logprobs"))
    store = start(config, tmp_path / "run", fakes)
    assert rows(store) == rows(whole)
    sample, score, pair, logprobs = (store.commit_of(1, name) for name in ("sample", "score", "pair", "logprobs"))
    for commit in (score, pair, logprobs):
        assert commit.inputs["001/sample"] == store.digest_of(1, "sample")
    assert pair.inputs["001/score"] == store.digest_of(1, "score")
    assert logprobs.inputs["001/pair"] == store.digest_of(1, "pair")
    assert len(sample.files) == len(score.files) == len(logprobs.files) == 11
    assert verify_document(store.layout.root, deep=True)["ok"]


def test_the_engine_is_checked_while_later_shards_are_sampled(write_config: WriteConfig, tmp_path: Path) -> None:
    config = write_config(
        rounds=1, evaluation=None, prompts={"per_round": 60}, sampling={"shard_size": 20, "num_responses": 4}
    )
    whole = start(config, tmp_path / "turns", Fakes(gold=False, num_workers=2, seed=3, logp_error=1e-7))
    fakes = Fakes(gold=False, own_devices=OWN, logp_error=1e-7)
    # the first two shards have 64 responses in pairs
    meet(fakes.sampler, "sample", 2, (fakes.logprobs, "logprobs"))
    store = start(config, tmp_path / "run", fakes)
    outcome = store.outcome(1, LogprobsOutcome)
    assert rows(store) == rows(whole) and outcome.check == whole.outcome(1, LogprobsOutcome).check
    assert outcome.source == "engine" and outcome.num_from_engine == outcome.num_responses > NUM_CHECKED
    assert outcome.check is not None and outcome.check.num_responses == NUM_CHECKED


def test_scorers_work_side_by_side(write_config: WriteConfig, tmp_path: Path) -> None:
    """Of each two one waits for the other."""
    (tmp_path / "rewards.py").write_text("def a(prompt, response):\n    return 1.0\n")
    parts = {"model": None, "parts": {name: {"function": "rewards.py:a"} for name in "ab"}}
    sampling = {"shard_size": 4, "num_responses": 3}
    for name, reward in (("single", {}), ("parts", {"reward": parts})):
        config = write_config(rounds=1, sampling=sampling, **reward)
        fakes = Fakes(own_devices=OWN)
        assert fakes.gold is not None
        fakes.parts = {"a": FakeScorer(), "b": FakeScorer(2.0)}
        if reward:
            meet(fakes.gold, "score", 1, (fakes.parts["a"], "score"))
            meet(fakes.parts["a"], "score", 1, (fakes.parts["b"], "score"))
        else:
            meet(fakes.gold, "score", 2, (fakes.scorer, "score"))
        store = start(config, tmp_path / name, fakes)
        if reward:
            turns = Fakes()
            turns.parts = {"a": FakeScorer(), "b": FakeScorer(2.0)}
            whole = start(config, tmp_path / "turns", turns)
            assert rows(store) == rows(whole) and store.table(1, "evaluate") == whole.table(1, "evaluate")
        assert "driver, evaluation.gold" in store.outcome(1, ScoreOutcome).timing


class Erring:
    """Makes fakes whose calls end a run now and then: a stop that the user asks for, or an error."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def fakes(self, **how: Any) -> Fakes:
        fakes = Fakes(num_workers=3, seed=self.random.randrange(99), own_devices=OWN, **how)
        called = (
            (fakes.sampler, "sample"),
            (fakes.scorer, "score"),
            (fakes.gold, "score"),
            (fakes.logprobs, "logprobs"),
        )
        for backend, method in called:
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
    for seed in range(1 if not sections else 6):
        # the engine's log-probs pass their check, and in every second run they do not
        error = (1e-7, 0.01)[seed % 2]
        whole, num_failed = rows(start(config, tmp_path / f"turns-{seed}", Fakes(logp_error=error))), 0
        erring, run = Erring(seed), tmp_path / f"run-{seed}"
        how = {"logp_error": error}
        attempts: Iterator[Callable[[], Store]] = iter([lambda: start(config, run, erring.fakes(**how))])  # noqa: B023
        for _ in range(60):
            attempt = next(attempts, lambda: resume(run, erring.fakes(**how), sampling=changed(config, erring)))  # noqa: B023
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

    fakes = Fakes(gold=False, own_devices=OWN)
    meet(fakes.sampler, "sample", 3, (fakes.scorer, "score"))
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


def test_log_probs_of_another_check_are_made_again(write_config: WriteConfig, tmp_path: Path) -> None:
    """Shards that were made when the engine had passed its check do not stay beside a check of other responses."""
    config = write_config(rounds=1, evaluation=None, sampling={"shard_size": 4, "num_responses": 3})

    class Broken(FakeLogprobs):
        def logprobs(self, folder: str, digest: str, items: Any) -> pa.Table:
            if self.calls:
                raise BackendError("broken", "Mend it.")
            return super().logprobs(folder, digest, items)

    # the engine gives log-probs of the first three shards only, so that the model is asked about the others
    class Partly(FakeSampler):
        def __init__(self, first_error: float) -> None:
            super().__init__(first_error)

        def sample(self, requests: Any, settings: Any) -> pa.Table:
            table = super().sample(requests, settings)
            self.logp_error = 1e-7 if len(self.requests) < 12 else None
            return table

    fakes = Fakes(gold=False)
    fakes.sampler, fakes.logprobs = Partly(1e-7), Broken()
    with pytest.raises(BackendError, match="broken"):
        start(config, tmp_path / "run", fakes)
    store = Store.open(tmp_path / "run")
    import shutil

    for stage in ("sample", "score", "pair"):
        shutil.rmtree(store.layout.stage(1, stage))
    second = Fakes(gold=False)
    # only the first shard of responses differs
    second.sampler = Partly(0.01)
    store = resume(tmp_path / "run", second)
    outcome = store.outcome(1, LogprobsOutcome)
    assert outcome.source == "model" and outcome.num_from_engine == 0
    undisturbed = Fakes(gold=False)
    undisturbed.sampler = Partly(0.01)
    assert rows(store) == rows(start(config, tmp_path / "undisturbed", undisturbed))
    assert verify_document(store.layout.root, deep=True)["ok"]
