"""The loop on fakes: every stage commits, a resume adopts, nothing is asked twice, empty rounds are handled."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from selfplay.config.load import load_config, validate
from selfplay.core.errors import BackendError, ConfigError, DriftError, EmptyRoundsError, LockedError
from selfplay.core.outcomes import EvaluateOutcome, SampleOutcome, ScoreOutcome, TrainOutcome
from selfplay.core.protocols import StepMetrics, TrainJob
from selfplay.core.records import Pair, schema
from selfplay.core.stages import stages_of
from selfplay.execution.progress import Reporter
from selfplay.run import driver
from selfplay.store.lock import RunLock
from selfplay.store.run import Store
from tests.helpers.configs import write_config_of
from tests.helpers.fakes import Fakes, FakeScorer
from tests.helpers.stages import every_stage

WriteConfig = Callable[..., Path]
# four shards of prompts a round, so that a kill finds some kept
SHARDS = {"shard_size": 6}


def start(config: Path, run_dir: Path, fakes: Fakes, overrides: list[str] | None = None) -> Store:
    settings = load_config(config, overrides or [])
    prepared = driver.preflight(settings, config.parent, run_dir)
    return driver.run(prepared, config.read_text(), overrides or [], Reporter(quiet=True), workers=fakes)


def resume(run_dir: Path, fakes: Fakes, **changes: Any) -> Store:
    store = Store.open(run_dir)
    document = store.attempt_documents()[-1]["config"]
    before = validate(document, "before")
    after = validate({**document, **changes}, "after")
    pins = json.loads(store.config_file("pins.json"))
    search_path = Path(json.loads(store.config_file("search_path.json")))
    driver.resume(
        store, driver.preflight(after, search_path, run_dir, store), before, pins, Reporter(quiet=True), workers=fakes
    )
    return Store.open(run_dir)


def digests(store: Store) -> dict[str, list[str]]:
    """Digests of the committed rows, stage by stage."""
    found = {}
    for number in store.rounds():
        for name in stages_of(number):
            if store.is_committed(number, name):
                files = store.commit_of(number, name).files
                found[f"{number}/{name}"] = [entry.sha256 for entry in files if entry.rows is not None]
    return found


def test_every_stage_commits_and_rows_agree(write_config: WriteConfig, tmp_path: Path) -> None:
    fakes = Fakes()
    store = start(write_config(), tmp_path / "run", fakes)
    assert [*digests(store)] == [f"{number}/{name}" for number, name in every_stage(2)]
    responses = store.table(1, "sample")
    assert responses.num_rows == 80
    assert len(set(responses["response_id"].to_pylist())) == 80
    pairs = store.table(1, "select")
    assert pairs.schema.equals(schema(Pair))
    kept = [row for row in pairs.to_pylist() if row["kept"]]
    assert len(kept) == round(0.5 * sum(row["rank"] is not None for row in pairs.to_pylist())) > 0
    assert sorted(pair.pair_id for pair in fakes.trainer.jobs[0].pairs) == sorted(row["pair_id"] for row in kept)
    unused = store.table(1, "pair")["response_id"].to_pylist()
    paired = {*pairs["chosen_response_id"].to_pylist(), *pairs["rejected_response_id"].to_pylist()}
    assert sorted([*unused, *paired]) == sorted(responses["response_id"].to_pylist())
    # fresh slices: no prompt twice
    assert not {*store.table(1, "prompts")["prompt_id"].to_pylist()} & {
        *store.table(2, "prompts")["prompt_id"].to_pylist()
    }
    # round 2 samples from the policy that round 1 trained
    assert (
        store.outcome(2, SampleOutcome).to_json()["policy_digest"]
        == store.outcome(1, TrainOutcome).to_json()["policy_digest"]
    )
    assert store.outcome(1, TrainOutcome).to_json()["policy_digest"] in fakes.sampler.loaded


@pytest.fixture(scope="module")
def undisturbed(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return digests(start(write_config_of(tiny_world, folder, sampling=SHARDS), folder / "run", Fakes()))


@pytest.mark.parametrize("stage", ["sample", "score", "logprobs", "train", "evaluate"])
def test_resume_adopts_shards_and_ends_with_the_same_rows(
    write_config: WriteConfig, tmp_path: Path, undisturbed: dict[str, list[str]], stage: str
) -> None:
    config = write_config(sampling=SHARDS)

    broken = Fakes()
    victim, method = {
        "sample": (broken.sampler, "sample"),
        "evaluate": (broken.sampler, "sample"),
        "score": (broken.scorer, "score"),
        "logprobs": (broken.logprobs, "logprobs"),
        "train": (broken.trainer, "train"),
    }[stage]
    real = getattr(victim, method)
    # evaluation of round 0 takes 2 sampled and 2 greedy calls and 2 scoring calls
    allowed = {"sample": 6, "evaluate": 3, "score": 4, "logprobs": 2, "train": 0}[stage]
    calls = []

    def dying(*args: Any) -> Any:
        calls.append(args)
        if len(calls) > allowed:
            raise MemoryError("killed here")
        return real(*args)

    setattr(victim, method, dying)
    with pytest.raises(Exception, match="killed here"):
        start(config, tmp_path / "run", broken)
    kept = {path: path.read_bytes() for path in (tmp_path / "run").rglob("part-*.parquet")}
    asked = list(broken.sampler.requests)

    second = Fakes()
    store = resume(tmp_path / "run", second)
    assert digests(store) == undisturbed
    now = {path.read_bytes() for path in (tmp_path / "run").rglob("part-*.parquet")}
    assert {*kept.values()} <= now
    if stage == "sample":
        # three evaluations of 10 prompts, sampled and greedy, and two rounds of 20 prompts: each asked once in all
        assert len(asked) + len(second.sampler.requests) == 3 * 2 * 10 + 2 * 20


def test_second_driver_is_refused(write_config: WriteConfig, tmp_path: Path) -> None:
    store = start(write_config(rounds=1), tmp_path / "run", Fakes())
    with RunLock(store.layout.lock), pytest.raises(LockedError, match="in use by another driver"):
        resume(tmp_path / "run", Fakes())


def test_existing_run_is_never_overwritten(write_config: WriteConfig, tmp_path: Path) -> None:
    config = write_config(rounds=1)
    start(config, tmp_path / "run", Fakes())
    before = digests(Store.open(tmp_path / "run"))
    with pytest.raises(ConfigError, match="already contains a run"):
        start(config, tmp_path / "run", Fakes())
    assert digests(Store.open(tmp_path / "run")) == before


def test_rounds_extend_and_identity_is_refused(write_config: WriteConfig, tmp_path: Path) -> None:
    store = start(write_config(rounds=1), tmp_path / "run", Fakes())
    first = digests(store)
    fakes = Fakes()
    store = resume(tmp_path / "run", fakes, rounds=2)
    assert first.items() <= digests(store).items()
    assert store.is_committed(2, "evaluate")
    with pytest.raises(DriftError, match=r"seed: 0 -> 1"):
        resume(tmp_path / "run", Fakes(), seed=1)


def test_changed_prompt_file_is_refused(write_config: WriteConfig, tiny_world: Path, tmp_path: Path) -> None:
    source = tmp_path / "prompts.jsonl"
    source.write_bytes((tiny_world / "prompts.jsonl").read_bytes())
    start(write_config(prompts={"source": str(source)}, rounds=1), tmp_path / "run", Fakes())
    source.write_text(source.read_text().replace("number 3:", "number three:"))
    with pytest.raises(DriftError, match=r"content of prompts\.source has changed"):
        resume(tmp_path / "run", Fakes(), rounds=2)


def test_too_few_prompts_is_said_before_the_start(write_config: WriteConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="4 rounds of 20 prompts need 80 prompts"):
        start(write_config(rounds=4), tmp_path / "run", Fakes())
    assert not (tmp_path / "run").exists()


class EqualScorer(FakeScorer):
    def score(self, items: Any) -> Any:
        table = super().score(items)
        return table.set_column(1, "reward", [[1.0] * table.num_rows])


def test_round_without_pairs_carries_the_policy_over_and_two_stop(write_config: WriteConfig, tmp_path: Path) -> None:
    fakes = Fakes()
    fakes.scorer = EqualScorer()
    with pytest.raises(EmptyRoundsError, match="rounds 1 and 2 kept no pair"):
        start(write_config(), tmp_path / "run", fakes)
    store = Store.open(tmp_path / "run")
    metrics = store.outcome(1, TrainOutcome).to_json()
    assert metrics["skipped"]
    assert metrics["policy_round"] == 0
    assert store.is_committed(1, "evaluate")
    assert not fakes.trainer.jobs
    assert {*store.table(1, "pair")["reason"].to_pylist()} <= {"zero_margin", "truncated", "empty", "identical_responses",
                                                              "prompt_has_too_few_responses"}  # fmt: skip


def test_accumulated_data_trains_on_all_rounds(write_config: WriteConfig, tmp_path: Path) -> None:
    fakes = Fakes()
    training = {"data": "accumulated", "reference": "initial"}
    start(write_config(training=training), tmp_path / "run", fakes)
    first, second = fakes.trainer.jobs
    assert {pair.pair_id for pair in first.pairs} < {pair.pair_id for pair in second.pairs}
    assert first.reference_is_policy
    assert not second.reference_is_policy
    assert all(pair.reference_logp_chosen != pair.policy_logp_chosen for pair in second.pairs)


def test_stop_request_ends_at_a_safe_point(write_config: WriteConfig, tmp_path: Path) -> None:
    import os
    import signal

    from selfplay.core.errors import Interrupted

    fakes = Fakes()
    real = fakes.trainer.train

    def train(job: TrainJob, progress: Callable[[StepMetrics], None]) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(job, progress)

    fakes.trainer.train = train  # type: ignore[method-assign]
    with pytest.raises(Interrupted) as stopped:
        start(write_config(), tmp_path / "run", fakes)
    assert stopped.value.exit_code == 143
    store = Store.open(tmp_path / "run")
    assert store.attempt_documents()[-1]["end"]["outcome"] == "interrupted"
    # the fake trainer, which cannot be asked to stop, comes to its end: that is kept, and the next stage does not begin
    assert store.is_committed(1, "train")
    assert not store.is_committed(1, "evaluate")
    resume(tmp_path / "run", Fakes())
    assert Store.open(tmp_path / "run").is_committed(2, "evaluate")


class FailingScorer(FakeScorer):
    """A judge that has no answer to every `every`-th response it is asked about."""

    def __init__(self, every: int) -> None:
        super().__init__(0.1)
        self.every = every

    def score(self, items: Any) -> Any:
        table = super().score(items)
        failed = [row % self.every == 0 for row in range(table.num_rows)]
        rewards = [None if bad else value for bad, value in zip(failed, table["reward"].to_pylist(), strict=True)]
        reasons = ["reward_error: KeyError: 'answer'" if bad else None for bad in failed]
        columns = [table["response_id"], pa.array(rewards, pa.float64()), pa.array(reasons, pa.string())]
        return pa.table(columns, names=table.column_names)


def test_a_judge_that_fails_stops_the_run_by_its_name(write_config: WriteConfig, tmp_path: Path) -> None:
    fakes = Fakes()
    fakes.gold = FailingScorer(every=1)
    with pytest.raises(BackendError, match=r"the gold judge \(evaluation\.gold\) failed for .* KeyError") as error:
        start(write_config(), tmp_path / "run", fakes)
    assert f"`selfplay resume {tmp_path / 'run'} reward.max_failed=1.0`" in error.value.hint
    # what the hint says is possible
    document = Store.open(tmp_path / "run").attempt_documents()[-1]["config"]
    fakes = Fakes()
    fakes.gold = FailingScorer(every=3)
    store = resume(tmp_path / "run", fakes, reward={**document["reward"], "max_failed": 0.9})
    score, evaluate = store.outcome(1, ScoreOutcome).to_json(), store.outcome(1, EvaluateOutcome).to_json()
    assert score["num_gold"] + sum(score["gold_drop_reasons"].values()) == score["num_responses"] == 80
    assert set(score["gold_drop_reasons"]) == {"reward_error: KeyError: 'answer'"}
    assert evaluate["eval_judge"] == "gold"
    assert evaluate["eval_num_ungolded"] == sum(evaluate["eval_gold_drop_reasons"].values()) > 0
    assert score["drop_reasons"] == {}


def test_a_judge_that_failed_everywhere_is_still_the_judge(write_config: WriteConfig, tmp_path: Path) -> None:
    fakes = Fakes()
    fakes.gold = FailingScorer(every=1)
    store = start(write_config(rounds=1, reward={"max_failed": 1.0}), tmp_path / "run", fakes)
    evaluate = store.outcome(1, EvaluateOutcome).to_json()
    assert evaluate["eval_judge"] == "gold"
    assert evaluate["eval_num_ungolded"] == store.table(1, "evaluate").num_rows
    assert evaluate["eval_win_rate_vs_initial"] is None
    without = start(write_config(rounds=1), tmp_path / "without", Fakes(gold=False))
    evaluate = without.outcome(1, EvaluateOutcome).to_json()
    assert (evaluate["eval_judge"], evaluate["eval_num_ungolded"], evaluate["eval_gold_drop_reasons"]) == (
        "reward", 0, {},
    )  # fmt: skip


def test_a_reward_that_fails_is_named_with_a_hint_that_holds(write_config: WriteConfig, tmp_path: Path) -> None:
    fakes = Fakes()
    fakes.scorer = FailingScorer(every=1)
    with pytest.raises(BackendError, match=r"the reward \(reward\.model\) failed for") as error:
        start(write_config(), tmp_path / "model", fakes)
    assert "source is pinned" not in error.value.hint
    (tmp_path / "rewards.py").write_text("def reward(prompt, response):\n    return 0.0\n")
    config = write_config(reward={"model": None, "function": "rewards.py:reward"})
    with pytest.raises(BackendError, match=r"the reward \(reward\.function\) failed for") as error:
        start(config, tmp_path / "function", fakes)
    assert "a new run, because its source is pinned" in error.value.hint


def test_a_judge_of_held_out_prompts_only_leaves_training_responses_alone(
    write_config: WriteConfig, tiny_world: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in (tiny_world / "eval_prompts.jsonl").read_text().splitlines()]
    held_out = tmp_path / "held.jsonl"
    held_out.write_text("".join(json.dumps({**row, "answer": "4"}) + "\n" for row in rows))
    (tmp_path / "judge.py").write_text("def gold(prompt, response, answer):\n    return len(response)\n")
    fakes = Fakes()
    config = write_config(rounds=1, evaluation={"source": str(held_out), "gold": "judge.py:gold"})
    store = start(config, tmp_path / "run", fakes)
    assert fakes.gold is not None
    assert all("-e00" in response_id for response_id in fakes.gold.scored)
    assert store.table(1, "score")["gold_reward"].null_count == 80
    assert store.outcome(1, ScoreOutcome).to_json()["gold_lacks"] == ["answer"]
    assert store.outcome(1, EvaluateOutcome).to_json()["eval_gold_mean"] is not None


def test_a_base_model_drops_what_it_cannot_write(write_config: WriteConfig, tiny_world: Path, tmp_path: Path) -> None:
    source = tmp_path / "prompts.jsonl"
    turns = [{"role": role, "content": "Hello."} for role in ("user", "assistant", "user")]
    source.write_text((tiny_world / "prompts.jsonl").read_text() + json.dumps({"prompt": turns}) + "\n")
    sections = {"policy": {"chat_template": "none"}, "prompts": {"source": str(source), "per_round": 61}}
    store = start(write_config(rounds=1, **sections), tmp_path / "run", Fakes())
    reasons = [reason for reason in store.table(1, "prompts")["drop_reason"].to_pylist() if reason]
    assert len(reasons) == 1
    assert reasons[0].startswith("template_refused: chat_template: none takes one user message for each prompt")
