"""A reward combined of several, through the loop on fakes: columns, statistics, failures, kills, drift."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from selfplay.cli.pair import _text
from selfplay.cli.rounds import rounds_text
from selfplay.cli.show import _text as show_text
from selfplay.core.errors import BackendError, DriftError
from selfplay.core.outcomes import EvaluateOutcome, ScoreOutcome
from selfplay.core.records import EvaluationResponse, Reward, schema
from selfplay.inspect.documents.pair import pair_document
from selfplay.inspect.documents.rounds import round_summaries
from selfplay.inspect.documents.rounds_table import rounds_table
from selfplay.inspect.documents.show import show_document
from selfplay.inspect.report.contents import gather
from selfplay.inspect.verify.verify import verify_document
from selfplay.store.run import Store
from tests.helpers.fakes import Fakes, FakeScorer, at_call
from tests.run.test_loop import FailingScorer, digests, resume, start

WriteConfig = Callable[..., Path]

REWARD = "def reward(prompt, response):\n    return float(len(response))\n"


class LengthScorer(FakeScorer):
    """Minus the number of characters, times `scale`, and `offset`."""

    offset = 0.0

    def score(self, items: Any) -> Any:
        table = super().score(items)
        values = pa.array([self.offset - self.scale * len(item.response) for item in items], pa.float64())
        return table.set_column(1, "reward", values)


class RisingScorer(FakeScorer):
    """Gives held-out responses 2 more in each round, as if the policy grew better."""

    def score(self, items: Any) -> Any:
        table = super().score(items)
        rounds = [int(found[1]) if (found := re.search(r"-e(\d+)-", item.response_id)) else 0 for item in items]
        values = [value + 2.0 * number for value, number in zip(table["reward"].to_pylist(), rounds, strict=True)]
        return table.set_column(1, "reward", pa.array(values, pa.float64()))


def fakes() -> Fakes:
    found = Fakes()
    found.parts = {"helpful": FakeScorer(), "short": LengthScorer(100.0)}
    return found


@pytest.fixture
def combined(write_config: WriteConfig, tiny_world: Path, tmp_path: Path) -> Callable[..., Path]:
    """A config with two parts; keyword arguments change the reward's section."""
    (tmp_path / "rewards.py").write_text(REWARD)
    sections = {
        "short": {"function": "rewards.py:reward", "weight": 0.5},
        "helpful": {"model": str(tiny_world / "reward_model")},
    }

    def write(rounds: int = 2, evaluation: Any = (), shard_size: int = 12, **reward: Any) -> Path:
        others = {} if evaluation == () else {"evaluation": evaluation}
        sampling = {"shard_size": shard_size}
        reward = {"model": None, "parts": sections, **reward}
        return write_config(reward=reward, rounds=rounds, sampling=sampling, **others)

    return write


def kill(*_: Any) -> Any:
    raise MemoryError("killed here")


def z(values: np.ndarray[Any, Any], over: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return (values - over.mean()) / over.std()


def test_the_reward_is_the_weighted_sum_of_the_parts_scores(combined: Callable[..., Path], tmp_path: Path) -> None:
    run = start(combined(), tmp_path / "run", fakes())
    for number in (1, 2):
        table = run.table(number, "score")
        names = [*schema(Reward).names]
        assert table.column_names == [*names[:2], "reward_helpful", "reward_short", *names[2:]]
        helpful, short, reward = (table[f"reward{name}"].to_numpy() for name in ("_helpful", "_short", ""))
        responses = run.table(number, "sample", columns=["response_id", "text"])
        assert responses["response_id"].equals(table["response_id"])
        assert short.tolist() == [-100.0 * len(text) for text in responses["text"].to_pylist()]
        np.testing.assert_allclose(reward, z(helpful, helpful) + 0.5 * z(short, short), atol=1e-9)
        metrics = run.outcome(number, ScoreOutcome).to_json()
        assert metrics["reward_normalize"] == "zscore"
        assert metrics["reward_parts"]["short"] == {
            "weight": 0.5, "mean": pytest.approx(short.mean()), "std": pytest.approx(short.std()), "num_scored": 80,
        }  # fmt: skip
        # what was combined is what pairs are made of
        by_id = dict(zip(table["response_id"].to_pylist(), reward, strict=True))
        pairs = run.table(number, "select").to_pylist()
        assert pairs
        assert all(pair["reward_chosen"] == by_id[pair["chosen_response_id"]] for pair in pairs)
        # each part's own shards are beside it, as the scorer gave them
        assert run.table(number, "score", ".parts/short")["reward"].to_numpy().tolist() == short.tolist()
    assert verify_document(run.layout.root, deep=True)["problems"] == []


def test_raw_numbers_where_they_are_asked_for(combined: Callable[..., Path], tmp_path: Path) -> None:
    table = start(combined(rounds=1, normalize="none"), tmp_path / "run", fakes()).table(1, "score")
    parts = (table[name].to_numpy() for name in ("reward_helpful", "reward_short"))
    np.testing.assert_allclose(table["reward"].to_numpy(), sum(w * p for w, p in zip((1.0, 0.5), parts, strict=True)))


def test_evaluations_are_normalised_by_that_of_the_starting_policy(
    combined: Callable[..., Path], tmp_path: Path
) -> None:
    rising = fakes()
    rising.parts["helpful"] = RisingScorer()
    run = start(combined(), tmp_path / "run", rising)
    first = run.table(0, "evaluate")
    sampled = np.array(first["mode"].to_pylist()) == "sampled"
    base = {name: first[f"reward_{name}"].to_numpy()[sampled] for name in ("helpful", "short")}
    for number in (0, 1, 2):
        table, metrics = run.table(number, "evaluate"), run.outcome(number, EvaluateOutcome).to_json()
        assert {*schema(EvaluationResponse).names} < {*table.column_names}
        helpful, short = (table[f"reward_{name}"].to_numpy() for name in ("helpful", "short"))
        expected = z(helpful, base["helpful"]) + 0.5 * z(short, base["short"])
        np.testing.assert_allclose(table["reward"].to_numpy(), expected, atol=1e-9)
        assert {name: (part["mean"], part["std"]) for name, part in metrics["reward_parts"].items()} == {
            name: (pytest.approx(values.mean()), pytest.approx(values.std())) for name, values in base.items()
        }
        mode = np.array(table["mode"].to_pylist())
        assert metrics["eval_reward_parts"]["short"] == {
            "mean": pytest.approx(short[mode == "sampled"].mean()),
            "greedy_mean": pytest.approx(short[mode == "greedy"].mean()),
        }
    assert run.outcome(0, EvaluateOutcome).to_json()["eval_reward_mean"] == pytest.approx(0.0, abs=1e-9)
    # the fake sampler answers alike in every round: what is left is what the scorer adds
    risen = [run.outcome(number, EvaluateOutcome).to_json()["eval_reward_mean"] for number in (1, 2)]
    assert risen == pytest.approx([2.0 / base["helpful"].std(), 4.0 / base["helpful"].std()])


def test_without_evaluation_and_without_spread(
    combined: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mute = fakes()
    mute.parts["short"] = LengthScorer(0.0)
    run = start(combined(rounds=1, evaluation=None), tmp_path / "run", mute)
    table = run.table(1, "score")
    helpful = table["reward_helpful"].to_numpy()
    np.testing.assert_allclose(table["reward"].to_numpy(), z(helpful, helpful), atol=1e-9)
    assert "reward_short" in run.table(0, "evaluate").column_names
    log = (tmp_path / "run/attempts/0001/log.txt").read_text()
    assert log.count("reward.parts.short gave all 80 responses the same reward") == 1
    rounded = LengthScorer(1e-9)
    rounded.offset = 0.5
    mute.parts["short"] = rounded
    start(combined(rounds=1, evaluation=None), tmp_path / "noise", mute)
    log = (tmp_path / "noise/attempts/0001/log.txt").read_text()
    assert log.count("reward.parts.short differs between the responses by less than float32 numbers can say: 0.5") == 1


def test_a_kill_among_the_parts_loses_no_shard_of_any(combined: Callable[..., Path], tmp_path: Path) -> None:
    whole = start(combined(rounds=1, shard_size=6), tmp_path / "whole", fakes())
    once = [row for number in (0, 1) for row in whole.table(number, "evaluate")["response_id"].to_pylist()]
    once += whole.table(1, "score")["response_id"].to_pylist()
    # a part is asked 3 times in an evaluation and 4 times in a round: in the midst of the first, before and within the second
    for victim, allowed in (("helpful", 5), ("short", 3), ("short", 6)):
        broken = fakes()
        at_call(broken.parts[victim], "score", allowed + 1, kill)
        run_dir = tmp_path / f"{victim}-{allowed}"
        with pytest.raises(Exception, match="killed here"):
            start(combined(rounds=1, shard_size=6), run_dir, broken)
        second = fakes()
        run = resume(run_dir, second)
        assert digests(run) == digests(whole)
        for name in ("helpful", "short"):
            asked = [*broken.parts[name].scored, *second.parts[name].scored]
            assert sorted(asked) == sorted(once)


def test_a_kill_before_the_parts_are_combined_asks_nobody_again(
    combined: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("selfplay.run.stages.scoring.combine", kill)
        with pytest.raises(Exception, match="killed here"):
            start(combined(rounds=1), tmp_path / "run", fakes())
    second = fakes()
    resume(tmp_path / "run", second)
    assert not [name for name in second.parts["helpful"].scored if "-e000-" in name]
    assert [name for name in second.parts["helpful"].scored if "-e001-" in name]


def test_a_response_that_one_part_failed_on_has_no_reward_and_says_which(
    combined: Callable[..., Path], tmp_path: Path
) -> None:
    partly = fakes()
    partly.parts["short"] = FailingScorer(every=5)
    run = start(combined(rounds=1, max_failed=0.5), tmp_path / "run", partly)
    table = run.table(1, "score")
    bad = np.array([reason is not None for reason in table["drop_reason"].to_pylist()])
    assert 0 < bad.sum() < len(bad)
    assert {*table["drop_reason"].to_pylist()} == {None, "short: reward_error: KeyError: 'answer'"}
    assert np.isnan(table["reward"].to_numpy()).tolist() == bad.tolist()
    assert table["reward_helpful"].null_count == 0
    assert table["reward_short"].null_count == bad.sum()
    metrics = run.outcome(1, ScoreOutcome).to_json()
    assert metrics["reward_parts"]["short"]["num_scored"] == metrics["num_scored"] == (~bad).sum()
    assert metrics["reward_parts"]["helpful"]["num_scored"] == 80
    # the others are normalised over the responses that have that part
    short = table["reward_short"].to_numpy()
    helpful = table["reward_helpful"].to_numpy()
    expected = z(helpful, helpful)[~bad] + 0.5 * z(short[~bad], short[~bad])
    np.testing.assert_allclose(table["reward"].to_numpy()[~bad], expected, atol=1e-9)
    assert verify_document(run.layout.root, deep=True)["problems"] == []


def test_a_part_that_fails_too_often_stops_the_run_by_its_name(combined: Callable[..., Path], tmp_path: Path) -> None:
    for name, setting, pinned in (("short", "function", True), ("helpful", "model", False)):
        failing = fakes()
        failing.parts[name] = FailingScorer(every=1)
        with pytest.raises(BackendError, match=rf"the reward \(reward\.parts\.{name}\.{setting}\) failed for") as error:
            start(combined(), tmp_path / name, failing)
        assert ("source is pinned" in error.value.hint) is pinned
        assert "reward.max_failed=1.0" in error.value.hint


def test_what_a_resume_may_change_of_a_part(combined: Callable[..., Path], tiny_world: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    start(combined(rounds=1), run, fakes())
    reward = Store.open(run).attempt_documents()[-1]["config"]["reward"]

    def changed(name: str, **settings: Any) -> dict[str, Any]:
        return {**reward, "parts": {**reward["parts"], name: {**reward["parts"].get(name, {}), **settings}}}

    with pytest.raises(DriftError, match=r"reward\.parts\.short\.weight: 0\.5 -> 0\.25"):
        resume(run, fakes(), rounds=2, reward=changed("short", weight=0.25))
    with pytest.raises(DriftError, match=r"content of reward\.parts\.third\.function has changed \(sha256 none"):
        resume(run, fakes(), rounds=2, reward=changed("third", function=reward["parts"]["short"]["function"]))
    source = tmp_path / "rewards.py"
    source.write_text(REWARD + "\n# more\n")
    with pytest.raises(DriftError, match=r"the content of reward\.parts\.short\.function has changed"):
        resume(run, fakes(), rounds=2)
    source.write_text(REWARD)
    (tmp_path / "moved").symlink_to(tiny_world / "reward_model")
    again = resume(
        run, fakes(), rounds=2, reward={**changed("helpful", model=str(tmp_path / "moved")), "max_failed": 0.5}
    )
    assert again.is_committed(2, "evaluate")


def test_a_pair_is_shown_with_the_parts_of_its_rewards(combined: Callable[..., Path], tmp_path: Path) -> None:
    run = start(combined(rounds=1), tmp_path / "run", fakes())
    pair = run.table(1, "select").to_pylist()[0]
    document = pair_document(run, pair["pair_id"])
    rewards = {row["response_id"]: row for row in run.table(1, "score").to_pylist()}
    assert len(document["responses"]) == 4
    for response in document["responses"]:
        row = rewards[response["response_id"]]
        assert [name for name in response if name.startswith("reward")] == ["reward", "reward_helpful", "reward_short"]
        assert (response["reward_helpful"], response["reward_short"]) == (row["reward_helpful"], row["reward_short"])
    shown = document["responses"][0]
    text = f"(helpful {shown['reward_helpful']:.4f}, short {shown['reward_short']:.4f})"
    assert text in _text(document)
    json.dumps(document, allow_nan=False)


def test_which_part_got_better_is_shown_by_round(combined: Callable[..., Path], tmp_path: Path) -> None:
    rising = fakes()
    rising.parts["helpful"] = RisingScorer()
    run = start(combined(), tmp_path / "run", rising)
    rows = round_summaries(run)
    text = rounds_text(rows)
    for number in (1, 2):
        evaluation = run.outcome(number, EvaluateOutcome).evaluation
        parts = run.outcome(number, ScoreOutcome).combined
        assert evaluation is not None and evaluation.eval_reward_parts is not None and parts is not None
        assert rows[number].train_reward_parts == {name: part.mean for name, part in parts.reward_parts.items()}
        for name, part in evaluation.eval_reward_parts.items():
            assert f"{part.mean:.3f}" in text and name in text
        shown = show_document(run, number)["reward_parts"]
        assert [part["name"] for part in shown] == ["helpful", "short"]
        assert shown[0]["eval_change"] == pytest.approx(2.0)
        assert shown[1]["eval_change"] == pytest.approx(0.0)
        assert shown[1]["weight"] == 0.5
        assert "parts of the reward" in show_text(show_document(run, number))
    figure = next(found for found in gather(run).figures if found.question == "Which part of the reward improved?")
    assert "helpful" in figure.chart and "short" in figure.chart
    columns, _ = rounds_table(rows)  # of the report, the viewer and the run's README
    assert [column.heading for column in columns if column.part] == [
        "train helpful", "train short", "held-out helpful", "held-out short",
    ]  # fmt: skip
    json.dumps([row.to_json() for row in rows], allow_nan=False)


def test_a_run_of_one_reward_has_no_parts(whole_run: Path) -> None:
    store = Store.open(whole_run)
    assert show_document(store, 1)["reward_parts"] == []
    assert {row.train_reward_parts for row in round_summaries(store)} == {None}
