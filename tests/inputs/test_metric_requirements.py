"""Metrics in the loop, on fakes: what each makes and reads, a person's own, groups, and what a run refuses at once."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selfplay.config.load import load_config
from selfplay.core.errors import ConfigError, DriftError
from selfplay.core.outcomes import LogprobsOutcome, SelectOutcome
from selfplay.core.stages import CANDIDATES, READ
from selfplay.run import driver
from selfplay.run.stages.metric_features import TABLES
from selfplay.selection.metrics import METRICS
from selfplay.store.run import Store
from tests.behaviour.test_mix import second_model  # noqa: F401 - a fixture
from tests.helpers.fakes import Fakes
from tests.run.test_loop import digests, resume, start

WriteConfig = Callable[..., Path]
# one round without an evaluation: quick
ONE: dict[str, Any] = {"rounds": 1, "evaluation": None}
INITIAL = {"reference": "initial"}
OWN = """
import numpy as np

def mine(reward_chosen, num_tokens_chosen, topic, scale=1.0):
    \"\"\"reward / tokens + scale * topic\"\"\"
    return reward_chosen / num_tokens_chosen + scale * topic

def other(reward_chosen):
    return reward_chosen
"""
# what a run can rank by and needs nothing made
PLAIN = [
    "random", "full", "explicit_margin", "implicit_margin_small", "implicit_margin_large", "alignment_potential",
    "rs_dpo", "minimum_gap", "high_mean_low_variance",
]  # fmt: skip
METHODS = {"ifd": "logprobs_alone", "ask_llm": "yes_probability", "density": "embeddings"}


def prepare(config: Path, run_dir: Path) -> driver.Prepared:
    return driver.preflight(load_config(config, []), config.parent, run_dir)


def ranked(store: Store, number: int = 1) -> list[dict[str, Any]]:
    """The pairs of a round that entered the ranking, as it kept them."""
    return [row for row in store.table(number, "select").to_pylist() if row["metric_value"] is not None]


def by_id(store: Store, stage: str, table: str = "", key: str = "response_id") -> dict[str, dict[str, Any]]:
    return {row[key]: row for row in store.table(1, stage, table).to_pylist()}


def test_every_metric_is_tried_here() -> None:
    refused = {"bees", "fdpo", "selective_dpo"}
    assert {*PLAIN, *METHODS, "apl", "dpo_gap"} | refused == {*METRICS}


@pytest.mark.parametrize("metric", PLAIN)
def test_a_metric_of_what_any_run_has_needs_nothing_made(
    write_config: WriteConfig, tmp_path: Path, metric: str
) -> None:
    ranking = prepare(write_config(selection={"metric": metric, "keep": 1.0}), tmp_path / "run").inputs.ranking
    assert ranking.made_for(1) == ranking.made_for(2) == set()


@pytest.mark.parametrize("metric", ["full", "high_mean_low_variance"])
def test_nothing_is_made_that_the_metric_does_not_read(write_config: WriteConfig, tmp_path: Path, metric: str) -> None:
    fakes = Fakes()
    selection = {"metric": metric, "keep": 1.0 if metric == "full" else 0.5}
    store = start(write_config(**ONE, selection=selection), tmp_path / "run", fakes)
    paired = {*store.table(1, "logprobs")["response_id"].to_pylist()}
    assert [name for _, name in fakes.logprobs.calls] == sorted(paired)
    assert fakes.logprobs.made == []
    assert store.outcome(1, LogprobsOutcome).to_json()["made_for_metric"] == {}
    folders = {path.name for path in store.layout.stage(1, "logprobs").iterdir() if path.is_dir()}
    assert not folders & {*TABLES.values()}
    assert store.outcome(1, SelectOutcome).to_json()["metric"] == metric
    assert any(row["kept"] for row in ranked(store))


@pytest.mark.parametrize("metric", METHODS)
def test_what_a_metric_asks_of_the_policy_is_made_once_for_each_chosen_response(
    write_config: WriteConfig, tmp_path: Path, metric: str
) -> None:
    fakes = Fakes()
    store = start(write_config(**ONE, selection={"metric": metric}), tmp_path / "run", fakes)
    chosen = sorted({*store.table(1, "pair", CANDIDATES)["chosen_response_id"].to_pylist()})
    assert fakes.logprobs.made == [(METHODS[metric], name) for name in chosen]
    assert len({name for _, name in fakes.logprobs.calls}) == len(fakes.logprobs.calls)
    (made,) = store.outcome(1, LogprobsOutcome).to_json()["made_for_metric"].values()
    assert made["num_responses"] == len(chosen)
    rows = ranked(store)
    assert rows
    if metric == "ifd":
        alone, read = (
            by_id(store, "logprobs", TABLES["policy_logp_chosen_alone"]),
            by_id(store, "select", READ, "pair_id"),
        )
        for row in rows:
            divisor = alone[row["chosen_response_id"]]["logp"]
            assert row["metric_value"] == pytest.approx(row["policy_logp_chosen"] / divisor)
            assert read[row["pair_id"]]["policy_logp_chosen_alone"] == divisor
        assert made["start_token_id"] == 257  # the tiny tokenizer has no BOS: its end token
    if metric == "ask_llm":
        asked = by_id(store, "logprobs", TABLES["ask_llm_yes"])
        assert all(row["metric_value"] == asked[row["chosen_response_id"]]["probability"] for row in rows)
        assert (made["num_trimmed"], made["num_not_asked"]) == (0, 0)
    if metric == "density":
        assert store.table(1, "logprobs", TABLES["embedding"]).schema.field("embedding").type.list_size == 3
        assert READ not in {path.name for path in store.layout.stage(1, "select").iterdir()}


def test_apl_has_the_entropy_of_all_of_a_prompts_responses(write_config: WriteConfig, tmp_path: Path) -> None:
    fakes = Fakes()
    store = start(write_config(**ONE, selection={"metric": "apl"}), tmp_path / "run", fakes)
    sample = store.table(1, "sample").to_pylist()
    paired = {row["prompt_id"] for row in store.table(1, "select").to_pylist()}
    asked = [name for _, name in fakes.logprobs.calls]
    assert sorted(asked) == sorted(row["response_id"] for row in sample if row["prompt_id"] in paired)
    assert any(row["finish_reason"] == "length" for row in sample if row["prompt_id"] in paired)
    # the fake's log-prob, written out
    digest = store.outcome(1, LogprobsOutcome).to_json()["policy_digest"]
    logps = defaultdict(list)
    for row in sample:
        logps[row["prompt_id"]].append(-0.1 * sum(row["token_ids"]) / 7 - 0.01 * (int(digest[:4], 16) % 10))
    pairs, read = by_id(store, "select", key="pair_id"), by_id(store, "select", READ, "pair_id")
    assert pairs.keys() == read.keys()
    for name, row in read.items():
        own = logps[pairs[name]["prompt_id"]]
        assert row["prompt_entropy"] == pytest.approx(-sum(own) / len(own))


def test_the_entropy_is_of_the_policys_own_responses(
    write_config: WriteConfig,
    tmp_path: Path,
    second_model: Path,  # noqa: F811
) -> None:
    fakes = Fakes()
    mix = {"model": str(second_model), "num_responses": 2}
    store = start(write_config(**ONE, selection={"metric": "apl"}, sampling={"mix": mix}), tmp_path / "run", fakes)
    logps: dict[str, list[float]] = defaultdict(list)
    own = {row["response_id"]: row for row in store.table(1, "sample").to_pylist() if row["policy_round"] is not None}
    for name in ("", TABLES["prompt_entropy"]):
        for row in store.table(1, "logprobs", name).to_pylist():
            if row["response_id"] in own:
                logp = row["policy_logp"] if name == "" else row["logp"]
                logps[own[row["response_id"]]["prompt_id"]].append(logp)
    others = {row["response_id"] for row in store.table(1, "logprobs", TABLES["prompt_entropy"]).to_pylist()}
    assert others <= own.keys()
    pairs, read = by_id(store, "select", key="pair_id"), by_id(store, "select", READ, "pair_id")
    assert read
    for name, row in read.items():
        values = logps[pairs[name]["prompt_id"]]
        assert len(values) == 2
        assert row["prompt_entropy"] == pytest.approx(-sum(values) / 2)


def test_what_was_made_is_adopted_by_a_resume(write_config: WriteConfig, tmp_path: Path) -> None:
    config = write_config(**ONE, selection={"metric": "ask_llm"})
    whole = digests(start(config, tmp_path / "whole", Fakes()))
    broken = Fakes()
    real, calls = broken.logprobs.yes_probability, []

    def dying(*args: Any) -> Any:
        calls.append(args)
        if len(calls) > 1:
            raise MemoryError("killed here")
        return real(*args)

    broken.logprobs.yes_probability = dying  # type: ignore[method-assign]
    with pytest.raises(Exception, match="killed here"):
        start(config, tmp_path / "run", broken)
    second = Fakes()
    store = resume(tmp_path / "run", second)
    assert digests(store) == whole
    asked = [name for _, name in broken.logprobs.made + second.logprobs.made]
    assert (
        len(asked)
        == len({*asked})
        == store.outcome(1, LogprobsOutcome).to_json()["made_for_metric"]["ask_llm_yes"]["num_responses"]
    )
    assert not second.logprobs.calls


def test_long_examples_are_trimmed_and_counted(write_config: WriteConfig, tiny_world: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}: " + "word " * (60 if i % 2 else 3)} for i in range(20)]
    source = tmp_path / "prompts.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fakes = Fakes()
    config = write_config(**ONE, selection={"metric": "ask_llm"}, prompts={"source": str(source)})
    store = start(config, tmp_path / "run", fakes)
    made = store.outcome(1, LogprobsOutcome).to_json()["made_for_metric"]["ask_llm_yes"]
    prompts = {row["prompt_id"]: row for row in store.table(1, "prompts").to_pylist()}
    asked = by_id(store, "logprobs", TABLES["ask_llm_yes"])
    sample = by_id(store, "sample")
    long = {name for name in asked if len(prompts[sample[name]["prompt_id"]]["messages"][0]["content"]) > 200}
    assert {name for name, row in asked.items() if row["trimmed"]} == long != set()
    assert made["num_trimmed"] == len(long) < made["num_responses"]


def test_dpo_gap_ranks_from_round_2_on(write_config: WriteConfig, tmp_path: Path) -> None:
    selection = {"metric": "dpo_gap", "first_round_metric": "ifd"}
    fakes = Fakes()
    store = start(write_config(selection=selection, training=INITIAL, evaluation=None), tmp_path / "run", fakes)
    assert [store.outcome(number, SelectOutcome).to_json()["metric"] for number in (1, 2)] == ["ifd", "dpo_gap"]
    assert {name.partition("-r")[2][:3] for _, name in fakes.logprobs.made} == {"001"}
    for row in ranked(store, 2):
        gap = row["policy_logp_chosen"] - row["reference_logp_chosen"]
        gap -= row["policy_logp_rejected"] - row["reference_logp_rejected"]
        assert row["metric_value"] == pytest.approx(-gap, abs=1e-12)


def test_options_reach_the_metric(write_config: WriteConfig, tmp_path: Path) -> None:
    selection = {"metric": "rs_dpo", "options": {"tau": 4.0}}
    store = start(write_config(**ONE, selection=selection), tmp_path / "run", Fakes())
    assert store.outcome(1, SelectOutcome).to_json()["options"] == {"tau": 4.0, "eta": 0.5}
    for row in ranked(store):
        assert row["metric_value"] == pytest.approx(1 / (1 + math.exp(-row["explicit_margin"] / 4.0)))


def test_an_own_metric_reads_numbers_of_the_prompts_and_is_pinned(write_config: WriteConfig, tmp_path: Path) -> None:
    (tmp_path / "metrics.py").write_text(OWN)
    config = write_config(**ONE, selection={"metric": "metrics.py:mine", "options": {"scale": 2}})
    store = start(config, tmp_path / "run", Fakes())
    topics = {
        row["prompt_id"]: json.loads(row["columns_json"])["topic"] for row in store.table(1, "prompts").to_pylist()
    }
    read = by_id(store, "select", READ, "pair_id")
    rows = ranked(store)
    assert {topics[row["prompt_id"]] for row in rows} == {0, 1, 2}
    for row in rows:
        topic = topics[row["prompt_id"]]
        assert row["metric_value"] == pytest.approx(row["reward_chosen"] / row["num_tokens_chosen"] + 2 * topic)
        assert read[row["pair_id"]]["topic"] == topic
    resume(tmp_path / "run", Fakes())
    (tmp_path / "metrics.py").write_text(OWN.replace("scale * topic\n\n", "scale * topic + 1\n\n"))
    with pytest.raises(DriftError, match=r"content of selection\.metric has changed"):
        resume(tmp_path / "run", Fakes())


@pytest.mark.parametrize("metric", ["alignment_potential", "explicit_margin"])
def test_groups_are_ranked_by_z_scores_of_their_own(
    write_config: WriteConfig, tiny_world: Path, tmp_path: Path, metric: str
) -> None:
    rows = [json.loads(line) for line in (tiny_world / "prompts.jsonl").read_text().splitlines()]
    for index, row in enumerate(rows):
        row["kind"] = ["a", 7, {"b": [1]}, None][index % 4]
    source = tmp_path / "prompts.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    selection = {"metric": metric, "group_column": "kind"}
    config = write_config(**ONE, selection=selection, prompts={"source": str(source), "per_round": 40})
    store = start(config, tmp_path / "run", Fakes())
    groups = {name: row["group"] for name, row in by_id(store, "select", READ, "pair_id").items()}
    assert {*groups.values()} == {"a", "7", '{"b": [1]}', None}
    assert store.outcome(1, SelectOutcome).to_json()["num_groups"] == 4
    log = (store.layout.attempt(1) / "log.txt").read_text()
    num_without = sum(group is None for group in groups.values())
    assert f"{num_without} of {len(groups)} pairs have no kind: they form one group" in log

    def z(values: Mapping[str, float]) -> dict[str, float]:
        """z-scores within each group, population standard deviation."""
        of_group = {
            group: [value for name, value in values.items() if groups[name] == group] for group in groups.values()
        }
        return {
            name: (value - np.mean(of_group[groups[name]])) / np.std(of_group[groups[name]])
            for name, value in values.items()
        }

    pairs = ranked(store)
    expected = z({row["pair_id"]: row["explicit_margin"] for row in pairs})
    if metric == "alignment_potential":
        size = z({row["pair_id"]: abs(row["implicit_margin"]) for row in pairs})
        expected = {name: value - size[name] for name, value in expected.items()}
    for row in pairs:
        assert row["metric_value"] == pytest.approx(expected[row["pair_id"]])


@pytest.mark.parametrize(
    ("sections", "message", "hint"),
    [
        ({"selection": {"metric": "bees"}}, "'bees' reads seed_implicit_margin, which a run does not make", "select"),
        ({"selection": {"metric": "selective_dpo"}}, "reads validation_loss", "`selfplay select` can read such columns"),
        ({"selection": {"metric": "fdpo"}}, "reads reward_fresh", "choose another metric"),
        ({"selection": {"metric": "rs_dpo", "options": {"ta": 1.0}}}, "no option 'ta'", "'tau'"),
        ({"selection": {"options": {"tau": 1.0}}}, "'alignment_potential' has no option", "Leave the options out"),
        ({"selection": {"metric": "nowhere.py:mine"}}, "no such file", "relative to the config"),
        ({"selection": {"metric": "m.py:minne"}}, "has no function 'minne'", "'mine'"),
        ({"selection": {"metric": "m.py:unknown"}}, "reads shoe_size, .* and .*prompts.jsonl has no such column", "choose"),
        ({"selection": {"metric": "m.py:prompts"}}, "reads prompt, ", "choose another metric"),
        ({"selection": {"metric": "m.py:words"}}, r"column words: in .*p.jsonl, row 2, 'two' is no number", "holds numbers"),
        ({"selection": {"metric": "m.py:empty"}}, r"column empty: .*p.jsonl has no number in it", "Fill the column"),
        ({"selection": {"group_column": "topik"}}, "group_column is 'topik'; .* have topic", "of the prompts"),
        ({"selection": {"group_column": "prompt"}}, "group_column is 'prompt'", "of the prompts"),
        ({"selection": {"metric": "dpo_gap"}}, "training.reference: previous", "reference: initial"),
        (
            {"selection": {"metric": "dpo_gap"}, "training": {"loss": "simpo", "simpo_gamma_beta_ratio": 0.5}},
            "loss: simpo has no reference", "training.loss: dpo",
        ),
        ({"selection": {"metric": "dpo_gap"}, "training": {**INITIAL, "start": "initial"}}, "the same weights", "previous"),
        ({"selection": {"metric": "dpo_gap"}, "training": INITIAL}, "does not rank in round 1", "first_round_metric"),
        (
            {"selection": {"metric": "dpo_gap", "first_round_metric": "dpo_gap"}, "training": INITIAL},
            "which compares the policy with the reference", "explicit_margin",
        ),
        (
            {"selection": {"metric": "m.py:mine", "first_round_metric": "random"}},
            "first_round_metric does nothing", "Leave it out",
        ),
        (
            {"selection": {"metric": "ask_llm"}, "sampling": {"engine": {"max_model_len": 100}}},
            "the question takes [0-9]+ tokens", "longer context",
        ),
    ],
)  # fmt: skip
def test_what_a_run_refuses_before_it_begins(
    write_config: WriteConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sections: dict[str, Any],
    message: str,
    hint: str,
) -> None:
    # to ask about a key of vLLM would import it in another process
    monkeypatch.setattr(driver, "check_pass_through", lambda config: None)
    (tmp_path / "m.py").write_text(
        OWN
        + "\n".join(f"def {name}({column}):\n    return {column}\n" for name, column in (
            ("unknown", "shoe_size"), ("prompts", "prompt"), ("words", "words"), ("empty", "empty"),
        ))
    )  # fmt: skip
    if sections["selection"].get("metric") in ("m.py:words", "m.py:empty"):
        rows = [{"prompt": f"say {i}", "words": [1, "two"][i % 2], "empty": None} for i in range(60)]
        (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        sections = {**sections, "prompts": {"source": str(tmp_path / "p.jsonl")}}
    with pytest.raises(ConfigError, match=message) as error:
        prepare(write_config(**sections), tmp_path / "run")
    assert re.search(hint, error.value.hint)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (
            {"metric": "explicit"},
            "`selection.metric` is 'explicit': no metric 'explicit'. Did you mean 'explicit_margin'",
        ),
        (
            {"implicit_margin": "dpo", "first_round_metric": "m.py:mine"},
            "`selection.first_round_metric` is 'm.py:mine'",
        ),
        ({"metric": "full", "keep": 1.0, "group_column": "topic"}, "keeps every pair: leave"),
        ({"first_round_metric": "random"}, "or a metric that reads the reference"),
    ],
)
def test_what_the_configuration_refuses(write_config: WriteConfig, selection: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(write_config(selection=selection), [])
    assert message in error.value.message
