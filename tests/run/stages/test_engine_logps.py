"""Log-probs of the engine in the place of the model's: stages *sample*, *logprobs* and *train* on fakes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from selfplay.config.load import load_config
from selfplay.config.schema import Config
from selfplay.core.errors import BackendError
from selfplay.core.outcomes import LogprobsOutcome, TrainOutcome
from selfplay.core.pool import Workers
from selfplay.core.stages import CHECKED, POLICY, REFERENCE
from selfplay.execution.progress import Reporter
from selfplay.execution.quarantine import QUARANTINED
from selfplay.inputs.resolve import Inputs
from selfplay.inspect.verify.verify import verify_document
from selfplay.run import driver
from selfplay.run.stages.logprob_source import NUM_CHECKED
from selfplay.store.run import Store
from tests.helpers.fakes import FakePool, Fakes, fake_logp

WriteConfig = Callable[..., Path]
EXACT = 1e-7
BF16 = {"policy": {"dtype": "bfloat16"}, "training": {"precision": "bf16"}}


def start(config: Path, run_dir: Path, fakes: Any) -> Store:
    prepared = driver.preflight(load_config(config, []), config.parent, run_dir)
    return driver.run(prepared, config.read_text(), [], Reporter(quiet=True), workers=fakes)


def kept_ids(store: Store, number: int) -> set[str]:
    rows = [row for row in store.table(number, "select").to_pylist() if row["kept"]]
    return {row[f"{side}_response_id"] for row in rows for side in ("chosen", "rejected")}


def by_id(table: Any, column: str) -> dict[str, Any]:
    return dict(zip(table["response_id"].to_pylist(), table[column].to_pylist(), strict=True))


@pytest.mark.parametrize("settings", [{}, BF16], ids=["float32", "bf16"])
def test_pairs_are_ranked_by_the_engine_and_trained_on_in_the_trainers_precision(
    write_config: WriteConfig, tmp_path: Path, settings: dict[str, Any]
) -> None:
    fakes = Fakes(logp_error=EXACT)
    store = start(write_config(rounds=2, evaluation=None, **settings), tmp_path / "run", fakes)
    for number in (1, 2):
        outcome = store.outcome(number, LogprobsOutcome)
        assert outcome.source == "engine" and outcome.reference_is_policy
        assert outcome.num_from_engine == outcome.num_responses
        assert outcome.check is not None and outcome.check.num_responses == min(NUM_CHECKED, outcome.num_responses)
        assert outcome.check.error_max == pytest.approx(EXACT, rel=1e-3) and outcome.check.passed
        sampled = by_id(store.table(number, "sample"), "sampler_logp")
        table = store.table(number, "logprobs")
        assert table["policy_logp"].to_pylist() == [sampled[name] for name in table["response_id"].to_pylist()]
        assert table["reference_logp"].equals(table["policy_logp"])
        # beside those that it is compared on, the model passes over the kept pairs where the engine is not as precise
        ranked = by_id(table, "policy_logp")
        assert (store.layout.stage(number, "train") / POLICY).exists() == bool(settings)
        if settings:
            assert {*by_id(store.table(number, "train", POLICY), "logp")} == kept_ids(store, number)
        pairs = fakes.trainer.jobs[number - 1].pairs
        assert pairs and len(pairs) == len(kept_ids(store, number)) // 2
        for pair in pairs:
            exact = fake_logp(outcome.policy_digest, pair.chosen_token_ids)
            assert pair.policy_logp_chosen == pair.reference_logp_chosen
            assert (pair.policy_logp_chosen == exact) == bool(settings)
            assert settings or pair.policy_logp_chosen in ranked.values()
    assert verify_document(tmp_path / "run", deep=True)["problems"] == []


def test_log_probs_that_differ_are_not_used(write_config: WriteConfig, tmp_path: Path) -> None:
    config = write_config(rounds=1, evaluation=None)
    store = start(config, tmp_path / "run", Fakes(logp_error=0.01))
    outcome = store.outcome(1, LogprobsOutcome)
    assert outcome.source == "model" and outcome.num_from_engine == 0
    assert outcome.check is not None and not outcome.check.passed
    assert outcome.check.error_max == pytest.approx(0.01) and "0.01 a token" in outcome.source_reason
    sampled = by_id(store.table(1, "sample"), "token_ids")
    for name, logp in by_id(store.table(1, "logprobs"), "policy_logp").items():
        assert logp == fake_logp(outcome.policy_digest, sampled[name])
    # what is trained on is there already
    assert not (store.layout.stage(1, "train") / POLICY).exists()
    assert "passes over all candidates instead" in (tmp_path / "run/attempts/0001/log.txt").read_text()


def test_a_demand_that_cannot_be_met_is_an_error(write_config: WriteConfig, tmp_path: Path) -> None:
    config = write_config(rounds=1, evaluation=None, selection={"logprobs": {"source": "engine"}})
    with pytest.raises(
        BackendError, match=r"source is engine, but on .* of the engine .* of the model .* differ by 0.01"
    ):
        start(config, tmp_path / "differs", Fakes(logp_error=0.01))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_an_engine_of_another_function_stops_the_run_before_it_trains(
    write_config: WriteConfig, tmp_path: Path, precision: str
) -> None:
    dtype = {"float32": "float32", "bf16": "bfloat16"}[precision]
    settings = {"policy": {"dtype": dtype}, "training": {"precision": precision}, "evaluation": None}
    fakes = Fakes(logp_error=0.06)
    with pytest.raises(
        BackendError, match=r"compute the policy in .* differently: on .* by 0.06 on average"
    ) as refusal:
        start(write_config(rounds=1, **settings), tmp_path / "run", fakes)
    assert "Nothing was trained" in refusal.value.hint and fakes.trainer.jobs == []
    assert not Store.open(tmp_path / "run").is_committed(1, "logprobs")


def test_a_bfloat16_engine_is_held_by_the_mean(write_config: WriteConfig, tmp_path: Path) -> None:
    dtypes = {"policy": {"dtype": "bfloat16"}, "evaluation": None, "rounds": 1}
    bf16 = write_config(**dtypes, training={"precision": "bf16"})
    outcome = start(bf16, tmp_path / "bf16", Fakes(logp_error=0.01)).outcome(1, LogprobsOutcome)
    assert outcome.source == "engine"
    assert outcome.check is not None and (outcome.check.compared, outcome.check.tolerance) == ("mean", 0.02)


def test_another_policy_than_the_sampled_one_is_passed_over(write_config: WriteConfig, tmp_path: Path) -> None:
    config = write_config(rounds=2, evaluation=None, training={"start": "initial"})
    store = start(config, tmp_path / "run", Fakes(logp_error=EXACT))
    assert [store.outcome(number, LogprobsOutcome).source for number in (1, 2)] == ["engine", "model"]
    assert "computed no log-probs of these responses" in store.outcome(2, LogprobsOutcome).source_reason
    assert store.table(2, "sample")["sampler_logp"].null_count == store.table(2, "sample").num_rows


@pytest.mark.parametrize("settings", [{}, BF16], ids=["float32", "bf16"])
def test_another_reference_is_asked_about_kept_pairs_and_earlier_rounds(
    write_config: WriteConfig, tmp_path: Path, settings: dict[str, Any]
) -> None:
    training = {"data": "accumulated", "reference": "initial"}
    together = settings | {"training": settings.get("training", {}) | training}
    fakes = Fakes(logp_error=EXACT)
    store = start(write_config(rounds=2, evaluation=None, **together), tmp_path / "run", fakes)
    outcome = store.outcome(2, LogprobsOutcome)
    assert outcome.source == "engine" and outcome.reference_digest is not None
    earlier, kept = kept_ids(store, 1), kept_ids(store, 2)
    assert outcome.num_from_engine == outcome.num_responses - len(earlier)
    references = by_id(store.table(2, "logprobs"), "reference_logp")
    assert {name for name, logp in references.items() if logp is not None} == earlier
    for table in (POLICY, REFERENCE) if settings else (REFERENCE,):
        assert {*by_id(store.table(2, "train", table), "logp")} == kept
    pairs = fakes.trainer.jobs[1].pairs
    assert 2 * len(pairs) == len(earlier | kept)
    for pair in pairs:
        exact = fake_logp(outcome.policy_digest, pair.rejected_token_ids)
        assert pair.policy_logp_rejected == pytest.approx(
            exact, abs=0 if settings else 2 * EXACT * len(pair.rejected_token_ids)
        )
        assert pair.reference_logp_rejected == fake_logp(outcome.reference_digest, pair.rejected_token_ids)
    assert store.table(2, "select")["reference_logp_chosen"].null_count == store.table(2, "select").num_rows
    assert verify_document(tmp_path / "run", deep=True)["problems"] == []


def test_a_ranking_by_the_reference_has_it_of_all_candidates(write_config: WriteConfig, tmp_path: Path) -> None:
    selection = {"implicit_margin": "dpo", "first_round_metric": "explicit_margin", "keep": 0.5}
    config = write_config(rounds=2, evaluation=None, selection=selection, training={"reference": "initial"})
    fakes = Fakes(logp_error=EXACT)
    store = start(config, tmp_path / "run", fakes)
    outcome = store.outcome(2, LogprobsOutcome)
    assert outcome.source == "engine" and outcome.reference_digest is not None
    assert store.table(2, "logprobs")["reference_logp"].null_count == 0
    assert not (store.layout.stage(2, "train") / REFERENCE).exists()
    for pair in fakes.trainer.jobs[1].pairs:
        exact = fake_logp(outcome.policy_digest, pair.chosen_token_ids)
        assert pair.policy_logp_chosen == pytest.approx(exact, abs=2 * EXACT * len(pair.chosen_token_ids))
        assert pair.reference_logp_chosen == fake_logp(outcome.reference_digest, pair.chosen_token_ids)


def test_a_loss_without_a_reference_needs_no_pass(write_config: WriteConfig, tmp_path: Path) -> None:
    config = write_config(rounds=1, evaluation=None, training={"loss": "simpo", "simpo_gamma_beta_ratio": 0.3})
    fakes = Fakes(logp_error=EXACT)
    store = start(config, tmp_path / "run", fakes)
    assert len(fakes.logprobs.calls) == store.table(1, "logprobs", CHECKED).num_rows
    sampled = by_id(store.table(1, "sample"), "sampler_logp")
    assert {pair.policy_logp_chosen for pair in fakes.trainer.jobs[0].pairs} <= {*sampled.values()}


def test_a_response_that_kills_the_pass_over_kept_pairs_is_left_out(write_config: WriteConfig, tmp_path: Path) -> None:
    config = write_config(rounds=1, evaluation=None, prompts={"per_round": 60}, sampling={"shard_size": 60}, **BF16)
    store = start(config, tmp_path / "whole", Fakes(logp_error=EXACT))
    checked = by_id(store.table(1, "logprobs", CHECKED), "logp")
    poison = min(kept_ids(store, 1) - checked.keys())
    fakes = Fakes(logp_error=EXACT)

    @contextlib.contextmanager
    def workers(config: Config, inputs: Inputs, folder: Path) -> Iterator[Workers]:
        with fakes(config, inputs, folder) as made:
            assert isinstance(made.logprobs, FakePool)
            made.logprobs.poison = {poison, min(checked)}
            yield made

    store = start(config, tmp_path / "run", workers)
    assert store.outcome(1, LogprobsOutcome).quarantined == {min(checked): QUARANTINED}
    assert min(checked) not in kept_ids(store, 1) and poison in kept_ids(store, 1)
    training = store.outcome(1, TrainOutcome).training
    assert training is not None and training.num_pairs_quarantined == 1
    assert len(fakes.trainer.jobs[0].pairs) == training.num_pairs == len(kept_ids(store, 1)) // 2 - 1
    assert verify_document(tmp_path / "run", deep=True)["problems"] == []


def test_a_response_that_kills_the_check_is_not_asked_about_again(write_config: WriteConfig, tmp_path: Path) -> None:
    config = write_config(rounds=1, evaluation=None, training={"reference": "initial"})
    checked = by_id(start(config, tmp_path / "whole", Fakes(logp_error=0.01)).table(1, "logprobs", CHECKED), "logp")
    poison, fakes = min(checked), Fakes(logp_error=0.01)

    @contextlib.contextmanager
    def workers(config: Config, inputs: Inputs, folder: Path) -> Iterator[Workers]:
        with fakes(config, inputs, folder) as made:
            assert isinstance(made.logprobs, FakePool)
            made.logprobs.poison = {poison}
            yield made

    outcome = start(config, tmp_path / "run", workers).outcome(1, LogprobsOutcome)
    assert (outcome.source, outcome.quarantined) == ("model", {poison: QUARANTINED})
    assert outcome.check is not None and outcome.check.num_responses == len(checked) - 1
    # the model passes over all the others
    assert {name for _, name in fakes.logprobs.calls} >= {*checked} - {poison}
    log = (tmp_path / "run/attempts/0001/log.txt").read_text()
    assert "round 1 logprobs check: shard 0" in log and "round 1 logprobs: shard" not in log
