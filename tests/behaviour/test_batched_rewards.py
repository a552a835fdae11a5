"""A batched reward function that compares the responses of its list: its numbers depend on neither shards, nor workers, nor what
happens to the responses of other prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from selfplay.core.errors import BackendError
from selfplay.core.outcomes import ScoreOutcome
from selfplay.core.protocols import ScoreItem
from selfplay.execution.quarantine import QUARANTINED
from selfplay.inputs.user_code.rewards import RewardFunction
from selfplay.inspect.verify.verify import verify_document
from selfplay.store.run import Store
from tests.helpers.fakes import Fakes
from tests.run.test_driver import is_complete, resume, start

WriteConfig = Callable[..., Path]
CODE = """
import pathlib, statistics

def reward(prompts, responses):
    raises = pathlib.Path(__file__).with_name("raises.txt").read_text().splitlines()
    if any(response in raises for response in responses):
        raise ConnectionError("judge timed out")
    lengths = [len(response) + sum(map(ord, response)) / 997 for response in responses]
    return [(length - statistics.mean(lengths)) / (statistics.pstdev(lengths) or 1.0) for length in lengths]
"""


@pytest.fixture
def function(tmp_path: Path) -> Path:
    (tmp_path / "raises.txt").write_text("")
    (tmp_path / "compares.py").write_text(CODE)
    return tmp_path / "compares.py"


def fakes_with(function: Path, poison: Sequence[str] = (), **options: Any) -> Fakes:
    fakes = Fakes(gold=False, poison=poison, **options)
    fakes.scorer = RewardFunction(f"{function}:reward", function.parent, batched=True)  # type: ignore[assignment]
    return fakes


def rewards_of(store: Store, stage: str = "score") -> list[tuple[str, float | None, str | None]]:
    table = store.table(1, stage, columns=["response_id", "reward", "drop_reason"])
    return [(row["response_id"], row["reward"], row["drop_reason"]) for row in table.to_pylist()]


def config_of(write_config: WriteConfig, function: Path, **sections: Any) -> Path:
    return write_config(
        **{"rounds": 1, "reward": {"function": f"{function}:reward", "batched": True, "model": None}, **sections}
    )


def test_neither_shards_nor_crashes_nor_errors_change_a_number(
    write_config: WriteConfig, function: Path, tmp_path: Path
) -> None:
    whole = start(config_of(write_config, function), tmp_path / "whole", fakes_with(function))
    expected = rewards_of(whole)
    assert all(reason is None for _, _, reason in expected) and len({reward for _, reward, _ in expected}) > 40
    outcome = whole.outcome(1, ScoreOutcome)
    assert outcome.called_by_prompt == ["reward"] and outcome.to_json()["called_by_prompt"] == ["reward"]
    assert verify_document(whole.layout.root, deep=True)["problems"] == []

    cut = config_of(write_config, function, sampling={"shard_size": 1}, evaluation={"num_responses": 3})
    small = start(cut, tmp_path / "small", fakes_with(function, num_workers=3, seed=5))
    assert rewards_of(small) == expected

    # one response kills its worker: the unit has no rewards, the others have theirs
    killer = expected[10][0]
    unit = {name for name, _, _ in expected if name.rpartition("-")[0] == killer.rpartition("-")[0]}
    assert len(unit) == 4
    hurt = start(config_of(write_config, function), tmp_path / "hurt", fakes_with(function, [killer]))
    assert rewards_of(hurt) == [
        (name, None, QUARANTINED) if name in unit else (name, reward, None) for name, reward, _ in expected
    ]
    assert verify_document(hurt.layout.root, deep=True)["problems"] == []

    # a call that raises is the reason of its unit
    texts = dict(zip(*whole.table(1, "sample", columns=["response_id", "text"]).to_pydict().values(), strict=True))
    (tmp_path / "raises.txt").write_text(texts[killer])
    loose = {"function": f"{function}:reward", "batched": True, "model": None, "max_failed": 0.5}
    raised = start(config_of(write_config, function, reward=loose), tmp_path / "raised", fakes_with(function))
    reason = "reward_error: ConnectionError: judge timed out"
    assert rewards_of(raised) == [
        (name, None, reason) if name in unit else (name, reward, None) for name, reward, _ in expected
    ]


def test_an_error_of_every_call_ends_the_run_and_a_resume_asks_the_same(
    write_config: WriteConfig, function: Path, tmp_path: Path
) -> None:
    sampling = {"shard_size": 6}
    whole = start(config_of(write_config, function, sampling=sampling), tmp_path / "whole", fakes_with(function))
    texts = whole.table(1, "sample", columns=["text"])["text"].to_pylist()
    (tmp_path / "raises.txt").write_text("\n".join(texts[30:]))
    config = config_of(write_config, function, evaluation=None, sampling=sampling)
    with pytest.raises(BackendError, match=r"failed for .* of 24 responses of a shard; .*ConnectionError: judge timed"):
        start(config, tmp_path / "run", fakes_with(function))
    (tmp_path / "raises.txt").write_text("")
    resume(tmp_path / "run", fakes_with(function))
    assert is_complete(tmp_path / "run", 1) and rewards_of(Store.open(tmp_path / "run")) == rewards_of(whole)


def test_units_are_whole_where_prompts_lost_their_responses(
    write_config: WriteConfig, function: Path, tmp_path: Path
) -> None:
    asked: list[list[str]] = []

    class Watched(RewardFunction):
        def score(self, items: Sequence[ScoreItem]) -> pa.Table:
            asked.append([item.unit for item in items])
            return super().score(items)

    fakes = fakes_with(function)
    fakes.scorer = Watched(f"{function}:reward", function.parent, batched=True)  # type: ignore[assignment]
    sections = {"sampling": {"num_responses": 3, "shard_size": 5}, "evaluation": {"num_responses": 3}}
    start(config_of(write_config, function, **sections), tmp_path / "run", fakes)
    assert len(asked) > 4
    for units in asked:
        assert {units.count(unit) for unit in units} <= ({1} if units[0].startswith("greedy") else {1, 3})
    # no unit is in two calls of the same stage
    flat = [unit for units in asked for unit in dict.fromkeys(units)]
    assert all(flat.count(unit) == (2 if " " in unit else 1) for unit in flat)
