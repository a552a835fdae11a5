"""A prompt or response that kills its worker, in the whole loop on fakes: given up with a reason, counted, and nothing else
changes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from fakes import Fakes, FakeScorer
from test_driver import end_of, is_complete, resume, start

from selfplay.cluster.pool import Workers
from selfplay.config.schema import Config
from selfplay.errors import BackendError
from selfplay.inputs import Inputs
from selfplay.inspect.show import show_document
from selfplay.inspect.verify import verify_document
from selfplay.protocols import LogprobItem, ScoreItem
from selfplay.stages.halving import QUARANTINED, TooManyGivenUp
from selfplay.store.run import Store

WriteConfig = Callable[..., Path]


def prompts_of(store: Store, number: int) -> list[str]:
    ids: list[str] = store.table(number, "prompts", columns=["prompt_id"])["prompt_id"].to_pylist()
    return ids


@pytest.fixture
def undisturbed(write_config: WriteConfig, tmp_path: Path) -> Store:
    return start(write_config(rounds=1), tmp_path / "whole", Fakes())


def test_a_prompt_that_kills_its_engine_has_no_responses_and_the_others_have_theirs(
    undisturbed: Store, write_config: WriteConfig, tmp_path: Path
) -> None:
    poison, held_out = prompts_of(undisturbed, 1)[3], prompts_of(undisturbed, 0)[5]
    fakes = Fakes(poison={poison, held_out})
    store = start(write_config(rounds=1), tmp_path / "run", fakes)
    for stage, number, lost in (("sample", 1, poison), ("evaluate", 0, held_out), ("evaluate", 1, held_out)):
        columns = ["response_id", "seed", "token_ids", "text"]
        whole = undisturbed.table(number, stage, columns=[*columns, "prompt_id"]).to_pylist()
        rows = store.table(number, stage, columns=[*columns, "prompt_id"]).to_pylist()
        assert rows == [row for row in whole if row["prompt_id"] != lost]
    metrics = store.metrics(1, "sample")
    assert metrics["quarantined"] == {poison: QUARANTINED}
    assert metrics["drop_reasons"] == {QUARANTINED: 4} and metrics["num_responses"] == 19 * 4
    assert store.metrics(1, "evaluate")["eval_quarantined"] == {held_out: QUARANTINED}
    assert store.metrics(1, "evaluate")["eval_num_prompts"] == 9
    document = show_document(store, 1)
    assert {"step": "sampled", "unit": "responses", "count": 76, "lost": {QUARANTINED: 4}} in document["funnel"]
    said = [warning["message"] for warning in document["warnings"] if warning["name"] == "quarantined"]
    assert len(said) == 2 and poison in said[0] and held_out in said[1]
    assert verify_document(store.layout.root, deep=True)["problems"] == []
    log = (store.layout.root / "attempts/0001/log.txt").read_text()
    assert f"{poison} is {QUARANTINED} (killed by sample); the run goes on without it" in log
    assert "worker 0 died (killed by sample) and is replaced" in log


def test_a_response_that_kills_its_scorer_has_no_reward_and_the_reason(
    undisturbed: Store, write_config: WriteConfig, tmp_path: Path
) -> None:
    poison = undisturbed.table(1, "sample")["response_id"].to_pylist()[10]
    held_out = undisturbed.table(1, "evaluate")["response_id"].to_pylist()[2]
    store = start(write_config(rounds=1), tmp_path / "run", Fakes(poison={poison, held_out}))
    for stage, lost in (("score", poison), ("evaluate", held_out)):
        columns = ["response_id", "reward", "gold_reward", "drop_reason"]
        whole = undisturbed.table(1, stage, columns=columns).to_pylist()
        for row in whole:
            if row["response_id"] == lost:
                # never a number: the gold judge was killed by it as well
                row |= {"reward": None, "gold_reward": None, "drop_reason": QUARANTINED}
        assert store.table(1, stage, columns=columns).to_pylist() == whole
    assert store.metrics(1, "score")["drop_reasons"] == {QUARANTINED: 1}
    unused = dict(zip(*(store.table(1, "pair")[name].to_pylist() for name in ("response_id", "reason")), strict=True))
    assert unused[poison] == QUARANTINED
    assert verify_document(store.layout.root, deep=True)["problems"] == []


def test_no_more_than_so_many_are_given_up(undisturbed: Store, write_config: WriteConfig, tmp_path: Path) -> None:
    poison, run = set(prompts_of(undisturbed, 1)[2:5]), tmp_path / "run"
    fakes = Fakes(poison=poison)
    with pytest.raises(TooManyGivenUp, match=r"3 have killed their workers twice.*cluster\.max_quarantined is 2"):
        start(write_config(rounds=1, cluster={"max_quarantined": 2}), run, fakes)
    assert end_of(run)["outcome"] == "failed"
    # whole shard of six twice, its halves once, thirds, ...: bounded by the shards' size, not by how often it is tried
    assert fakes.fragile[0].deaths < 15
    resume(run, Fakes(poison=poison), cluster__max_quarantined=3)
    assert is_complete(run, 1)
    assert set(Store.open(run).metrics(1, "sample")["quarantined"]) == poison


def test_a_response_that_kills_the_log_probs_ends_the_stage_and_is_named(
    undisturbed: Store, write_config: WriteConfig, tmp_path: Path
) -> None:
    poison, run = undisturbed.table(1, "logprobs")["response_id"].to_pylist()[4], tmp_path / "run"

    @contextlib.contextmanager
    def workers(config: Config, inputs: Inputs, folder: Path) -> Iterator[Workers]:
        fakes = Fakes()
        with fakes(config, inputs, folder) as made:
            fakes.fragile[2].poison = {poison}
            assert made.logprobs is fakes.fragile[2]
            yield made

    with pytest.raises(BackendError, match=f"response {poison} killed its worker 2 times") as stopped:
        start(write_config(rounds=1), run, workers)
    assert "go on" in stopped.value.hint
    resume(run, Fakes())
    assert is_complete(run, 1)
    assert Store.open(run).table(1, "logprobs").equals(undisturbed.table(1, "logprobs"))


class NanScorer(FakeScorer):
    """Gives NaN, infinity and nothing, without a reason, beside numbers."""

    def score(self, items: Sequence[ScoreItem]) -> pa.Table:
        table = super().score(items)
        values = table["reward"].to_pylist()
        values[: len(ODD)] = ODD
        return table.set_column(1, "reward", pa.array(values, pa.float64()))


ODD = [math.nan, math.inf, None]


def test_rewards_that_are_no_numbers_are_none_and_say_so(write_config: WriteConfig, tmp_path: Path) -> None:
    fakes = Fakes()
    fakes.scorer, fakes.gold = NanScorer(), NanScorer()
    store = start(write_config(rounds=1, reward={"max_failed": 0.5}), tmp_path / "run", fakes)
    for stage in ("score", "evaluate"):
        rows = store.table(1, stage).to_pylist()
        assert [row["reward"] for row in rows[:3]] == [None, None, None]
        assert [row["gold_reward"] for row in rows[:3]] == [None, None, None]
        assert [row["drop_reason"] for row in rows[:4]] == ["reward_not_finite"] * 3 + [None]
    assert verify_document(store.layout.root, deep=True)["problems"] == []
    # a scorer that gives nothing else stops the run instead
    with pytest.raises(BackendError, match=r"failed for 3 of 24 responses of a shard; .*reward_not_finite"):
        start(write_config(rounds=1), tmp_path / "strict", fakes)


def test_log_probs_that_are_no_numbers_stop_the_run(write_config: WriteConfig, tmp_path: Path) -> None:
    fakes, run = Fakes(), tmp_path / "run"
    real = fakes.logprobs.logprobs

    def broken(folder: str, digest: str, items: Sequence[LogprobItem]) -> pa.Table:
        table = real(folder, digest, items)
        return table.set_column(1, "logp", pa.array([*table["logp"].to_pylist()[:-1], math.nan], pa.float64()))

    fakes.logprobs.logprobs = broken  # type: ignore[method-assign]
    with pytest.raises(BackendError, match=r"log-prob of response .* is nan \(1 of \d+ in the shard"):
        start(write_config(rounds=1), run, fakes)
    assert not Store.open(run).is_committed(1, "logprobs")
    resume(run, Fakes())
    assert is_complete(run, 1)
