"""Stage *pair* in the loop, on fakes: every builder and filter through to training, and what is recorded of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selfplay.config.load import load_config
from selfplay.core.outcomes import PairOutcome
from selfplay.core.stages import CANDIDATES
from selfplay.execution.progress import Reporter
from selfplay.inspect.documents.pair import pair_document
from selfplay.inspect.documents.pairs import pairs_document
from selfplay.inspect.documents.show import show_document
from selfplay.inspect.verify.verify import verify_document
from selfplay.run import driver
from selfplay.run.stages import pair as pair_stage
from selfplay.store.run import Store
from tests.helpers.fakes import Fakes

WriteConfig = Callable[..., Path]


def start(config: Path, run_dir: Path, fakes: Fakes) -> Store:
    settings = load_config(config, [])
    prepared = driver.preflight(settings, config.parent, run_dir)
    return driver.run(prepared, config.read_text(), [], Reporter(quiet=True), workers=fakes)


RULES: list[dict[str, Any]] = [
    {"build": "all"},
    {"build": "all", "max_per_prompt": 2, "length_penalty": "auto"},
    {"build": "random_pair", "min_gap": 1.0},
    {"build": "best_random", "max_length_gap": 4},
    {"build": "best_median", "allow_truncated": True, "min_reward_chosen": 8.0, "max_reward_rejected": 9.0},
    {"build": "sweet_spot", "max_similarity": 0.5},
    {"build": "minimum_gap", "min_gap": 2.0},
]


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: "-".join(map(str, rules.values())))
def test_pairs_of_every_kind_go_all_the_way(write_config: WriteConfig, tmp_path: Path, rules: dict[str, Any]) -> None:
    fakes = Fakes()
    sampling = {"num_responses": 6, "temperature": 0.8, "max_tokens": 8, "shard_size": 6}
    config = write_config(rounds=1, sampling=sampling, pairs=rules, selection={"keep": 1.0}, evaluation=None)
    store = start(config, tmp_path / "run", fakes)
    document = verify_document(store.layout.root, deep=True)
    assert document["ok"], document["problems"]

    pairs, metrics = store.table(1, "select").to_pylist(), store.outcome(1, PairOutcome).to_json()
    assert len(pairs) == metrics["num_pairs"] > 0
    assert metrics["num_prompts_paired"] == len({row["prompt_id"] for row in pairs})
    assert sorted(row["pair_id"] for row in pairs) == sorted(pair.pair_id for pair in fakes.trainer.jobs[0].pairs)
    most = max(Counter(row["prompt_id"] for row in pairs).values())
    assert most == 1 if rules.get("build") != "all" else 1 < most <= rules.get("max_per_prompt", 15)
    unused = store.table(1, "pair").to_pylist()
    assert Counter(row["reason"] for row in unused) == metrics["unused_reasons"]
    paired = {row[f"{side}_response_id"] for row in pairs for side in ("chosen", "rejected")}
    assert len(unused) + len(paired) == 120
    # each response's log-prob is taken once, in however many pairs it is
    assert Counter(name for _, name in fakes.logprobs.calls) == Counter(paired)
    length_gap = np.mean([row["num_tokens_chosen"] - row["num_tokens_rejected"] for row in pairs])
    assert metrics["length_gap_mean"] == pytest.approx(length_gap)
    assert (metrics["length_fit"] is not None) is (rules.get("length_penalty") == "auto")

    shown = {step["step"]: step for step in show_document(store, 1)["funnel"]}
    assert shown["paired"]["count"] == len(pairs)
    assert sum(shown["paired"]["lost"].values()) == len(unused)
    assert pairs_document(store, 1)["num_pairs"] == len(pairs)
    one = pair_document(store, pairs[-1]["pair_id"])
    uses = Counter(response["use"] for response in one["responses"])
    assert (uses["chosen"], uses["rejected"], sum(uses.values())) == (1, 1, 6)
    assert all((response["reason"] is None) is (response["use"] != "unused") for response in one["responses"])


def test_the_penalty_is_in_the_pairs_and_not_in_the_rewards(write_config: WriteConfig, tmp_path: Path) -> None:
    config = write_config(rounds=1, pairs={"length_penalty": "auto"}, evaluation=None)
    store = start(config, tmp_path / "run", Fakes())
    metrics = store.outcome(1, PairOutcome).to_json()
    penalty, fit = metrics["length_penalty"], metrics["length_fit"]
    assert penalty == fit["penalty"] != 0
    assert abs(fit["length_gap"]) < abs(fit["length_gap_without"])
    score, sample = store.table(1, "score").to_pylist(), store.table(1, "sample").to_pylist()
    by_id = {row["response_id"]: row["reward"] - penalty * response["num_tokens"]
             for row, response in zip(score, sample, strict=True)}  # fmt: skip
    for row in store.table(1, "select").to_pylist():
        assert row["reward_chosen"] == by_id[row["chosen_response_id"]]
        assert row["reward_rejected"] == by_id[row["rejected_response_id"]]
        assert row["explicit_margin"] == row["reward_chosen"] - row["reward_rejected"] > 0
    assert all(row["reward"] == int(row["reward"]) for row in score)
    candidates = store.table(1, "pair", CANDIDATES)
    assert candidates.column_names == [
        "chosen_response_id", "rejected_response_id", "reward_chosen", "reward_rejected", "prompt_reward_mean",
        "prompt_reward_std",
    ]  # fmt: skip
    # over the prompt's finished responses, which are all usable here
    usable = [row["prompt_id"] for row in sample if row["finish_reason"] == "stop"]
    first = candidates.to_pylist()[0]
    prompt = next(row["prompt_id"] for row in sample if row["response_id"] == first["chosen_response_id"])
    values = [
        by_id[row["response_id"]] for row in sample if row["prompt_id"] == prompt and row["finish_reason"] == "stop"
    ]
    assert len(values) == usable.count(prompt)
    assert first["prompt_reward_mean"] == pytest.approx(np.mean(values))
    assert first["prompt_reward_std"] == pytest.approx(np.std(values))


def test_random_pairs_of_a_prompt_differ_from_round_to_round(write_config: WriteConfig, tmp_path: Path) -> None:
    config = write_config(pairs={"build": "random_pair"}, prompts={"order": "same"}, evaluation=None)
    store = start(config, tmp_path / "run", Fakes())
    rounds = [
        [pair_id.replace(f"-r00{number}", "") for pair_id in store.table(number, "select")["pair_id"].to_pylist()]
        for number in (1, 2)
    ]
    assert sorted(rounds[0]) != sorted(rounds[1])


@pytest.mark.parametrize("build", ["best_worst", "random_pair", "all"])
def test_blocks_of_prompts_give_the_pairs_of_the_whole_round(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: str
) -> None:
    config = write_config(rounds=1, pairs={"build": build}, evaluation=None)
    whole = start(config, tmp_path / "whole", Fakes())
    monkeypatch.setattr(pair_stage, "BLOCK", 1)
    blocks = start(config, tmp_path / "blocks", Fakes())
    assert len(blocks.lazy_table(1, "pair").parts) == len(blocks.lazy_table(1, "sample").parts) > 1
    for table in ("", CANDIDATES):
        assert blocks.table(1, "pair", table).equals(whole.table(1, "pair", table))
    assert blocks.table(1, "select").equals(whole.table(1, "select"))
    found, expected = (store.outcome(1, PairOutcome).to_json() for store in (blocks, whole))
    assert found.pop("length_gap_mean") == pytest.approx(expected.pop("length_gap_mean"))
    del found["timing"], expected["timing"]
    assert found.pop("unused_reasons") == expected.pop("unused_reasons")
    assert found == expected
