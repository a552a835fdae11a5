"""A prompt or response that kills its worker, in the whole loop on fakes: given up with a reason, counted, and nothing else
changes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import yaml
from typer.testing import CliRunner

from selfplay.cli.main import app
from selfplay.config.schema import Config
from selfplay.core.errors import BackendError
from selfplay.core.outcomes import (
    EvaluateOutcome,
    LogprobsOutcome,
    SampleOutcome,
    ScoreOutcome,
    SelectOutcome,
    TrainOutcome,
)
from selfplay.core.pool import Workers
from selfplay.core.protocols import LogprobItem, ScoreItem
from selfplay.execution.progress import Reporter
from selfplay.execution.quarantine import QUARANTINED, QuarantinePolicy, TooManyPoisonItems
from selfplay.execution.sharding import Shards, quarantined, run_shards
from selfplay.execution.signals import StopFlag
from selfplay.inputs.resolve import Inputs
from selfplay.inspect.documents.show import show_document
from selfplay.inspect.verify.verify import verify_document
from selfplay.run.worker_specs import MakeWorkers
from selfplay.store.run import Store
from tests.helpers.configs import write_config_of
from tests.helpers.fakes import FakePool, Fakes, FakeScorer
from tests.run.test_driver import end_of, is_complete, resume, start

WriteConfig = Callable[..., Path]


def prompts_of(store: Store, number: int) -> list[str]:
    ids: list[str] = store.table(number, "prompts", columns=["prompt_id"])["prompt_id"].to_pylist()
    return ids


@pytest.fixture(scope="module")
def undisturbed(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("undisturbed")
    return start(write_config_of(tiny_world, folder, rounds=1), folder / "whole", Fakes())


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
    metrics = store.outcome(1, SampleOutcome).to_json()
    assert metrics["quarantined"] == {poison: QUARANTINED}
    assert metrics["drop_reasons"] == {QUARANTINED: 4} and metrics["num_responses"] == 19 * 4
    assert store.outcome(1, EvaluateOutcome).to_json()["eval_quarantined"] == {held_out: QUARANTINED}
    assert store.outcome(1, EvaluateOutcome).to_json()["eval_num_prompts"] == 9
    document = show_document(store, 1)
    assert {"step": "sampled", "unit": "responses", "count": 76, "lost": {QUARANTINED: 4}} in document["funnel"]
    said = [warning["message"] for warning in document["warnings"] if warning["name"] == "quarantined"]
    assert len(said) == 2 and poison in said[0] and held_out in said[1]
    assert verify_document(store.layout.root, deep=True)["problems"] == []
    log = (store.layout.root / "attempts/0001/log.txt").read_text()
    assert f"{poison} is {QUARANTINED} (killed by sample); the run continues without it" in log
    assert "worker 0 died (killed by sample) and is replaced" in log


def test_what_earlier_attempts_gave_up_counts(undisturbed: Store) -> None:
    items = [ScoreItem(name, [], name) for name in ("a", "b", "c", "d")]
    shards = [items[:2], items[2:]]
    none = pa.table({"response_id": pa.array([], pa.string())})
    quarantine: QuarantinePolicy[ScoreItem] = QuarantinePolicy(lambda item: item.response_id, lambda _, reason: none, 1)
    under_way = SimpleNamespace(reporter=Reporter(quiet=True), stop=StopFlag())

    def attempt(poison: set[str], shards: Sequence[Sequence[ScoreItem]]) -> dict[str, str]:
        writer = undisturbed.writer(9, "score", "fingerprint", [])
        run_shards(
            under_way, writer, FakePool(FakeScorer(), poison), "score", Shards.of(shards), lambda shard: (list(shard),),
            lambda _, table: table, title="score", unit="responses", quarantine=quarantine,
        )  # fmt: skip
        return quarantined(writer, "")

    assert attempt({"a"}, shards[:1]) == {"a": QUARANTINED}
    with pytest.raises(TooManyPoisonItems, match=r"2 items have killed .*, the last one c"):
        attempt({"c"}, shards)
    # names that a kill left without their rows are not those of the next attempt, in which nothing dies
    names = pa.table({"name": ["c"], "reason": [QUARANTINED]})
    undisturbed.writer(9, "score", "fingerprint", []).write_shard(1, names, ".quarantined/rows")
    assert attempt(set(), shards) == {"a": QUARANTINED}
    kept = undisturbed.writer(9, "score", "fingerprint", [])
    assert [kept.read_shard(index)["response_id"].to_pylist() for index in (0, 1)] == [["b"], ["c", "d"]]


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
    assert store.outcome(1, ScoreOutcome).to_json()["drop_reasons"] == {QUARANTINED: 1}
    unused = dict(zip(*(store.table(1, "pair")[name].to_pylist() for name in ("response_id", "reason")), strict=True))
    assert unused[poison] == QUARANTINED
    assert verify_document(store.layout.root, deep=True)["problems"] == []


def test_no_more_than_so_many_are_given_up(undisturbed: Store, write_config: WriteConfig, tmp_path: Path) -> None:
    poison, run = set(prompts_of(undisturbed, 1)[2:5]), tmp_path / "run"
    fakes = Fakes(poison=poison)
    with pytest.raises(
        TooManyPoisonItems, match=r"3 items have killed their workers twice.*cluster\.max_poison_items is 2"
    ):
        start(write_config(rounds=1, sampling={"shard_size": 6}, cluster={"max_poison_items": 2}), run, fakes)
    assert end_of(run)["outcome"] == "failed"
    # whole shard of six twice, its halves once, thirds, ...: bounded by the shards' size, not by how often it is tried
    assert fakes.pools[0].num_crashes < 15
    resume(run, Fakes(poison=poison), cluster__max_poison_items=3)
    assert is_complete(run, 1)
    assert set(Store.open(run).outcome(1, SampleOutcome).to_json()["quarantined"]) == poison


def only_logprobs_die(poison: set[str]) -> MakeWorkers:
    """Workers of which those of *logprobs* do not get past these responses."""

    @contextlib.contextmanager
    def workers(config: Config, inputs: Inputs, folder: Path) -> Iterator[Workers]:
        fakes = Fakes()
        with fakes(config, inputs, folder) as made:
            fakes.pools[2].poison = poison
            assert made.logprobs is fakes.pools[2]
            yield made

    return workers


def test_the_pair_of_a_response_that_kills_the_log_probs_is_dropped_and_says_so(
    undisturbed: Store, write_config: WriteConfig, tmp_path: Path
) -> None:
    kept = undisturbed.table(1, "select").to_pylist()[0]
    poison = kept["chosen_response_id"]
    store = start(write_config(rounds=1), tmp_path / "run", only_logprobs_die({poison}))
    assert store.outcome(1, LogprobsOutcome).to_json()["quarantined"] == {poison: QUARANTINED}
    whole = undisturbed.table(1, "logprobs").to_pylist()
    assert store.table(1, "logprobs").to_pylist() == [row for row in whole if row["response_id"] != poison]
    pairs = {row["pair_id"]: row for row in store.table(1, "select").to_pylist()}
    lost = pairs.pop(kept["pair_id"])
    # what is known of it stays; what is not is null, never 0
    assert (lost["kept"], lost["drop_reason"], lost["rank"]) == (False, QUARANTINED, None)
    assert lost["explicit_margin"] == kept["explicit_margin"] and lost["num_tokens_chosen"] == kept["num_tokens_chosen"]
    assert lost["policy_logp_rejected"] == kept["policy_logp_rejected"]
    names = ("policy_logp_chosen", "reference_logp_chosen", "implicit_margin", "alignment_potential", "metric_value")
    assert [lost[name] for name in names] == [None] * 5
    # it is not in the pool either: the others are ranked and standardised without it
    assert sorted(row["rank"] for row in pairs.values()) == list(range(1, len(pairs) + 1))
    potential = np.array([row["alignment_potential"] for row in pairs.values()])
    explicit, implicit = (
        np.array([row[name] for row in pairs.values()]) for name in ("explicit_margin", "implicit_margin")
    )
    z = [(values - values.mean()) / values.std() for values in (explicit, np.abs(implicit))]
    assert potential == pytest.approx(z[0] - z[1], abs=1e-9)
    metrics = store.outcome(1, SelectOutcome).to_json()
    assert metrics["drop_reasons"][QUARANTINED] == 1 and metrics["num_standardized"] == len(pairs)
    document = show_document(store, 1)
    assert document["funnel"][-1]["lost"][QUARANTINED] == 1
    said = [warning["message"] for warning in document["warnings"] if warning["name"] == "quarantined"]
    assert len(said) == 1 and poison in said[0]
    assert verify_document(store.layout.root, deep=True)["problems"] == []
    for command in (["show", "1"], ["pairs", "1", "--content"], ["pair", kept["pair_id"]], ["report"], ["rounds"]):
        done = CliRunner().invoke(app, [command[0], str(store.layout.root), *command[1:]])
        assert done.exit_code == 0, (command, done.stderr, done.exception)


def test_no_more_log_probs_than_so_many_are_given_up(
    undisturbed: Store, write_config: WriteConfig, tmp_path: Path
) -> None:
    poison, run = set(undisturbed.table(1, "logprobs")["response_id"].to_pylist()[3:6]), tmp_path / "run"
    with pytest.raises(
        TooManyPoisonItems, match=r"logprobs: 3 items have killed their workers twice.*max_poison_items is 2"
    ):
        start(write_config(rounds=1, cluster={"max_poison_items": 2}), run, only_logprobs_die(poison))
    assert not Store.open(run).is_committed(1, "logprobs")
    resume(run, Fakes())
    assert is_complete(run, 1)
    assert Store.open(run).table(1, "logprobs").equals(undisturbed.table(1, "logprobs"))
    assert Store.open(run).table(1, "select").equals(undisturbed.table(1, "select"))


@pytest.mark.parametrize("metric", ["ifd", "ask_llm", "density", "apl"])
def test_what_a_metric_reads_of_the_policy_is_given_up_too(
    write_config: WriteConfig, tmp_path: Path, metric: str
) -> None:
    config = write_config(rounds=1, evaluation=None, selection=metric, sampling={"shard_size": 3})
    document = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**document, "selection": {"metric": metric, "keep": 0.5}}))
    whole = start(config, tmp_path / "whole", Fakes(gold=False))
    pairs = whole.table(1, "select").to_pylist()
    # two that are chosen, so that a shard of one is among them, and one that is in no pair
    unused = whole.table(1, "pair")["response_id"].to_pylist()[0]
    chosen = sorted(row["chosen_response_id"] for row in pairs)
    poison = {chosen[1], chosen[-1]}
    store = start(config, tmp_path / "run", only_logprobs_die({*poison, unused}))
    lost = {row["pair_id"] for row in pairs if row["chosen_response_id"] in poison}
    for row in store.table(1, "select").to_pylist():
        assert (row["drop_reason"] == QUARANTINED) == (row["pair_id"] in lost)
        assert (row["metric_value"] is None) == (row["pair_id"] in lost)
    given_up = store.outcome(1, LogprobsOutcome).to_json()["quarantined"]
    assert poison <= given_up.keys() <= {*poison, unused}
    assert verify_document(store.layout.root, deep=True)["problems"] == []
    assert is_complete(tmp_path / "run", 1)


def test_pairs_of_earlier_rounds_that_kill_the_log_probs_are_left_out_of_the_training(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    config = write_config(rounds=1, evaluation=None, training={"data": "accumulated", "reference": "initial"})
    start(config, run, Fakes(gold=False))
    kept = [row for row in Store.open(run).table(1, "select").to_pylist() if row["kept"]]
    poison = kept[0]["rejected_response_id"]
    fakes = only_logprobs_die({poison})
    resume(run, fakes, rounds=2)
    store = Store.open(run)
    metrics = store.outcome(2, TrainOutcome).to_json()
    assert metrics["num_pairs_quarantined"] == 1
    assert metrics["num_pairs"] == len(kept) - 1 + store.outcome(2, SelectOutcome).to_json()["num_kept"]
    # the reference's pass and the policy's are two: it is given up in both
    assert store.outcome(2, LogprobsOutcome).to_json()["quarantined"] == {poison: QUARANTINED}
    assert not store.outcome(2, LogprobsOutcome).to_json()["reference_is_policy"]
    assert store.table(2, "logprobs")["reference_logp"].null_count == 0
    assert verify_document(run, deep=True)["problems"] == []
    assert "1 kept pairs are left out" in (run / "attempts/0002/log.txt").read_text()


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
        start(write_config(rounds=1, sampling={"shard_size": 6}), tmp_path / "strict", fakes)


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
