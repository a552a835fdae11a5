"""`selfplay select` from dataset to folder, on fakes of the backends (tokenizers are real)."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfplay.core.errors import (
    BackendError,
    ConfigError,
    CorruptionError,
    DriftError,
    Interrupted,
    LockedError,
    ModelError,
)
from selfplay.dataset_selection.record import Record
from selfplay.execution.quarantine import QUARANTINED
from selfplay.selection.select import PairPool, select
from tests.helpers.tables import Fakes, Select, dropped, kept, number_table, numbers, text_rows, write_rows


def by_reason(root: Path) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for row in dropped(root):
        found.setdefault(row["drop_reason"], []).append(row["source_row"])
    return found


# ------------------------------------------------------------------------------------------------- ready-made columns


def test_a_table_of_numbers_is_ranked_as_select_does(tmp_path: Path, run: Select, fakes: Fakes) -> None:
    columns = numbers(50)
    outcome = run(number_table(tmp_path / "a.parquet", 50))
    ids = [f"p{row:05d}" for row in range(50)]
    expected = select(PairPool(pair_id=ids, columns=columns), metric="alignment_potential", keep=0.4)
    rows = kept(tmp_path / "out")
    assert [row["rank"] for row in rows] == list(range(1, 21))
    assert [row["pair_id"] for row in rows] == [ids[row] for row in np.argsort(expected.rank_P)][:20]
    others = dropped(tmp_path / "out")
    assert [row["pair_id"] for row in others] == [ids[row] for row in np.flatnonzero(~expected.kept_P)]
    assert {row["drop_reason"] for row in others} == {"not_selected"}
    for row in rows + others:
        place = ids.index(row["pair_id"])
        assert row["kept"] == bool(expected.kept_P[place])
        assert expected.alignment_potential_P is not None
        assert row["metric_value"] == row["alignment_potential"] == expected.alignment_potential_P[place]
        assert row["reward_chosen"] == columns["reward_chosen"][place]
    assert outcome.summary["selection"]["num_kept"] == 20
    assert not outcome.was_there
    assert fakes.started == 0
    assert not (tmp_path / "out" / "formats").exists()
    assert any("formats of other trainers" in note for note in outcome.summary["notes"])


def test_texts_and_the_users_own_columns_stay(tmp_path: Path, run: Select) -> None:
    rows = text_rows(20)
    run(write_rows(tmp_path / "a.jsonl", rows))
    found = kept(tmp_path / "out") + dropped(tmp_path / "out")
    assert len(found) == 20
    for row in found:
        source = rows[row["source_row"] - 1]
        assert all(row[name] == source[name] for name in ("prompt", "chosen", "rejected"))
        assert json.loads(row["columns_json"])["topic"] == source["topic"]


def test_what_load_dataset_reads(tmp_path: Path, run: Select, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    run(write_rows(tmp_path / "a.jsonl", text_rows(20)))
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: split.num_rows for name, split in loaded.items()} == {"kept": 8, "dropped": 12}
    assert loaded["kept"]["rank"][:] == list(range(1, 9))
    assert loaded["kept"][0]["chosen"][0]["role"] == "assistant"
    run(number_table(tmp_path / "b.parquet"), metric="full", keep=1.0, out=str(tmp_path / "full"))
    whole = datasets.load_dataset(str(tmp_path / "full"), cache_dir=str(tmp_path / "cache"))
    assert {name: split.num_rows for name, split in whole.items()} == {"kept": 50}


def test_every_pair_that_cannot_be_ranked_has_a_reason(tmp_path: Path, run: Select) -> None:
    rows = text_rows(20)
    rows[2]["reward_chosen"] = math.nan
    rows[3]["reward_rejected"] = math.inf
    rows[5]["rejected"] = rows[5]["chosen"]
    rows[6]["reward_chosen"] = rows[6]["reward_rejected"]
    rows[8]["policy_logp_chosen"] = math.nan
    outcome = run(write_rows(tmp_path / "a.jsonl", rows))
    found = by_reason(tmp_path / "out")
    assert found["identical_responses"] == [6]
    assert found["zero_margin"] == [7]
    in_tables = len(kept(tmp_path / "out")) + len(dropped(tmp_path / "out"))
    assert in_tables + outcome.summary["bad_rows"]["count"] == outcome.summary["dataset"]["num_rows"] == 20
    # a score that is no number is counted, as a bad row or as a dropped pair, with file and row
    places = [(row["file"], row["row"]) for row in outcome.summary["bad_rows"]["examples"]]
    places += [(row["source_file"], row["source_row"]) for row in outcome.summary["dropped_examples"]]
    assert {("a.jsonl", 3), ("a.jsonl", 4), ("a.jsonl", 6), ("a.jsonl", 7), ("a.jsonl", 9)} <= set(places)


def test_within_groups_each_group_keeps_its_share(tmp_path: Path, run: Select) -> None:
    rows = text_rows(40)
    for row in rows:
        scale = 100.0 if row["topic"] == "maths" else 0.01
        row["reward_chosen"] *= scale
        row["reward_rejected"] *= scale
    source = write_rows(tmp_path / "a.jsonl", rows)
    run(source, metric="explicit_margin")
    alone = [json.loads(row["columns_json"]).get("topic", row.get("group")) for row in kept(tmp_path / "out")]
    outcome = run(source, metric="explicit_margin", group_column="topic", out=str(tmp_path / "grouped"))
    grouped = [row["group"] for row in kept(tmp_path / "grouped")]
    assert alone.count("maths") >= 12
    assert 4 <= grouped.count("maths") < 12
    assert "topic" in outcome.summary["diagnostics"]["groups"]


def test_a_metric_of_ones_own(tmp_path: Path, run: Select) -> None:
    (tmp_path / "mine.py").write_text(
        "def mine(reward_chosen, num_tokens_chosen, power=1.0):\n    return reward_chosen / num_tokens_chosen**power\n"
    )
    source = number_table(tmp_path / "a.parquet")
    outcome = run(source, metric=f"{tmp_path}/mine.py:mine", options={"power": 2.0})
    columns = numbers(50)
    values = columns["reward_chosen"] / columns["num_tokens_chosen"] ** 2.0
    assert [row["metric_value"] for row in kept(tmp_path / "out")] == sorted(values, reverse=True)[:20]
    assert str(tmp_path) not in json.dumps(outcome.summary)
    (tmp_path / "mine.py").write_text(
        "def mine(reward_chosen, num_tokens_chosen, power=1.0):\n    return reward_chosen\n"
    )
    with pytest.raises(DriftError, match="the content of metric has changed"):
        run(source, metric=f"{tmp_path}/mine.py:mine", options={"power": 2.0})


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"metric": "aligment_potential"}, "alignment_potential"),
        ({"metric": "rs_dpo", "options": {"taux": 1.0}}, "tau"),
        ({"metric": "full", "keep": 0.4}, "Set keep to 1.0"),
        ({"metric": "apl"}, "prompt_entropy"),
        ({"group_column": "colour"}, "colour"),
        ({"pairs": "all"}, "pairs"),
    ],
)  # fmt: skip
def test_what_cannot_be_selected_is_refused(tmp_path: Path, run: Select, flags: dict[str, Any], words: str) -> None:
    source = write_rows(tmp_path / "a.jsonl", text_rows(8))
    with pytest.raises(ConfigError) as found:
        run(source, **flags)
    assert words in str(found.value)
    assert not (tmp_path / "out" / ".COMMIT.json").exists()


# ------------------------------------------------------------------------------------------------- what is computed


def test_rewards_and_log_probs_are_computed_where_they_are_missing(
    tmp_path: Path, tiny_world: Path, run: Select, fakes: Fakes
) -> None:
    rows = text_rows(10, columns=False)
    models = {"policy": str(tiny_world / "policy"), "reward_model": str(tiny_world / "reward_model")}
    run(write_rows(tmp_path / "a.jsonl", rows), **models)
    found = kept(tmp_path / "out") + dropped(tmp_path / "out")
    assert len(found) == 10
    items = {item.response_id: item for item in fakes.logprobs.items}
    for row in found:
        assert row["reward_chosen"] == len(row["chosen"][0]["content"])
        assert row["explicit_margin"] == row["reward_chosen"] - row["reward_rejected"]
        item = items[f"{row['pair_id']}/chosen"]
        assert row["num_tokens_chosen"] == len(item.token_ids)
        assert row["num_prompt_tokens"] == len(item.prompt_token_ids)
        mean = row["policy_logp_chosen"] / row["num_tokens_chosen"]
        other = row["policy_logp_rejected"] / row["num_tokens_rejected"]
        assert row["implicit_margin"] == mean - other
    assert fakes.started == 1


def test_tensors_that_a_model_has_no_place_for_are_said(tmp_path: Path, tiny_world: Path, run: Select) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    models = {}
    for name, tensor in (("policy", "model.layers.0.self_attn.q_proj.bias"), ("reward_model", "score.bias")):
        models[name] = str(shutil.copytree(tiny_world / name, tmp_path / name))
        weights = tmp_path / name / "model.safetensors"
        save_file({**load_file(weights), tensor: torch.ones(1)}, weights, metadata={"format": "pt"})
    notes = run(write_rows(tmp_path / "a.jsonl", text_rows(10, columns=False)), **models).summary["notes"]
    for name in ("q_proj.bias", "score.bias"):
        assert [name in note and "left out" in note for note in notes].count(True) == 1
    weights.write_bytes(weights.read_bytes().replace(b"layers.0.mlp.up_proj", b"layers.0.mlp.ab_proj"))
    with pytest.raises(ModelError, match="lacks 1 weights"):
        run(write_rows(tmp_path / "b.jsonl", text_rows(10, columns=False)), out=str(tmp_path / "other"), **models)


def test_a_failed_reward_is_a_reason_and_too_many_stop_it(tmp_path: Path, tiny_world: Path, run: Select) -> None:
    rows = text_rows(20, columns=False)
    rows[4]["rejected"][0]["content"] = "fail"
    source = write_rows(tmp_path / "a.jsonl", rows)
    flags = {"metric": "explicit_margin", "reward_model": str(tiny_world / "reward_model"), "shard_size": 20}
    run(source, **flags)
    assert by_reason(tmp_path / "out")["reward_error: no"] == [5]
    for row in rows:
        row["chosen"][0]["content"] += " fail"
    with pytest.raises(BackendError, match=r"reward.model\) failed for 21 of 40") as found:
        run(write_rows(tmp_path / "b.jsonl", rows), out=str(tmp_path / "other"), **flags)
    assert "selfplay resume" not in found.value.hint


def test_a_response_that_kills_its_scorer_is_a_reason(
    tmp_path: Path, tiny_world: Path, run: Select, fakes: Fakes
) -> None:
    source = write_rows(tmp_path / "a.jsonl", text_rows(20, columns=False))
    flags = {"metric": "explicit_margin", "reward_model": str(tiny_world / "reward_model"), "shard_size": 8}
    run(source, out=str(tmp_path / "whole"), **flags)
    victim = next(row for row in kept(tmp_path / "whole") + dropped(tmp_path / "whole") if row["source_row"] == 11)
    fakes.poison = {f"{victim['pair_id']}/rejected"}
    run(source, **flags)
    assert by_reason(tmp_path / "out")[QUARANTINED] == [11]
    rewards = {
        name: {row["pair_id"]: row["explicit_margin"] for row in kept(tmp_path / name) + dropped(tmp_path / name)}
        for name in ("whole", "out")
    }
    assert rewards["out"] == rewards["whole"] | {victim["pair_id"]: None}


@pytest.mark.parametrize(
    ("flags", "columns"),
    [
        ({"metric": "alignment_potential"}, ["policy_logp"]),
        ({"metric": "alignment_potential", "implicit_margin": "dpo", "beta": 0.1}, ["policy_logp", "reference_logp"]),
        ({"metric": "ifd"}, ["policy_logp"]),
    ],
)
def test_a_response_that_kills_the_log_probs_is_a_reason(
    tmp_path: Path, tiny_world: Path, run: Select, fakes: Fakes, flags: dict[str, Any], columns: list[str]
) -> None:
    from tests.helpers.tiny import make_tiny_llama

    rows = [{k: v for k, v in row.items() if "logp" not in k and "tokens" not in k} for row in text_rows(20)]
    rows[9]["chosen"][0]["content"] = "x" * 600  # among a shard's rows is one that has no items
    source = write_rows(tmp_path / "a.jsonl", rows)
    flags |= {"policy": str(tiny_world / "policy"), "shard_size": 8}
    if "reference_logp" in columns:
        flags["reference"] = str(make_tiny_llama(tmp_path / "reference", seed=5))
    run(source, out=str(tmp_path / "whole"), **flags)
    every = kept(tmp_path / "whole") + dropped(tmp_path / "whole")
    victim = next(row for row in every if row["source_row"] == 11)
    fakes.poison = {f"{victim['pair_id']}/chosen"}
    outcome = run(source, **flags)
    assert by_reason(tmp_path / "out")[QUARANTINED] == [11]
    for column in columns:
        for side in ("chosen", "rejected"):
            name = f"{column}_{side}"
            whole = {row["pair_id"]: row[name] for row in every}
            found = {row["pair_id"]: row[name] for row in kept(tmp_path / "out") + dropped(tmp_path / "out")}
            assert found == whole | {victim["pair_id"]: None}
    assert f"1 of 20 pairs have no log-probs: {QUARANTINED}." in outcome.summary["notes"]


@pytest.mark.parametrize("has_log_probs", [False, True])
def test_a_response_that_kills_the_embeddings_is_a_reason(
    tmp_path: Path, tiny_world: Path, run: Select, fakes: Fakes, has_log_probs: bool
) -> None:
    rows = text_rows(20)
    if not has_log_probs:
        rows = [{k: v for k, v in row.items() if "logp" not in k and "tokens" not in k} for row in rows]
    source = write_rows(tmp_path / "a.jsonl", rows)
    flags = {"metric": "density", "policy": str(tiny_world / "policy"), "shard_size": 8}
    run(source, out=str(tmp_path / "whole"), **flags)
    victim = kept(tmp_path / "whole")[0]
    fakes.poison = {f"{victim['pair_id']}/chosen"}
    run(source, **flags)
    assert by_reason(tmp_path / "out")[QUARANTINED] == [victim["source_row"]]


def test_too_long_is_dropped_and_counted(tmp_path: Path, tiny_world: Path, run: Select) -> None:
    rows = text_rows(10)
    rows[7]["chosen"][0]["content"] = "x" * 600
    for row in rows:
        del row["policy_logp_chosen"]
    outcome = run(write_rows(tmp_path / "a.jsonl", rows), policy=str(tiny_world / "policy"))
    assert by_reason(tmp_path / "out")["too_long_for_training"] == [8]
    assert any("more than 512 tokens" in note for note in outcome.summary["notes"])


def test_the_dpo_form_takes_another_reference(tmp_path: Path, tiny_world: Path, run: Select, fakes: Fakes) -> None:
    from tests.helpers.tiny import make_tiny_llama

    other = make_tiny_llama(tmp_path / "reference", seed=5)
    rows = [{k: v for k, v in row.items() if "logp" not in k and "tokens" not in k} for row in text_rows(10)]
    source = write_rows(tmp_path / "a.jsonl", rows)
    flags = {"policy": str(tiny_world / "policy"), "implicit_margin": "dpo", "beta": 0.1}
    run(source, reference=str(other), **flags)
    for row in kept(tmp_path / "out"):
        ratios = [row[f"policy_logp_{side}"] - row[f"reference_logp_{side}"] for side in ("chosen", "rejected")]
        assert row["implicit_margin"] == pytest.approx(0.1 * (ratios[0] - ratios[1]))
    with pytest.raises(ConfigError, match="the reference is the policy"):
        run(source, reference=str(tiny_world / "policy"), out=str(tmp_path / "same"), **flags)


@pytest.mark.parametrize(
    ("metric", "column"), [("ifd", "policy_logp_chosen_alone"), ("ask_llm", "ask_llm_yes"), ("density", None)]
)
def test_metrics_that_ask_the_policy_more(
    tmp_path: Path, tiny_world: Path, run: Select, metric: str, column: str | None
) -> None:
    rows = [{"prompt": "q", "chosen": f"a {n}" * (n + 1), "rejected": "b"} for n in range(10)]
    outcome = run(write_rows(tmp_path / "a.jsonl", rows), metric=metric, policy=str(tiny_world / "policy"))
    found = kept(tmp_path / "out") + dropped(tmp_path / "out")
    assert len(found) == 10
    if column is None:
        assert "embedding" not in found[0]
        assert "The embeddings are not written into the result." in outcome.summary["notes"]
    else:
        assert all(row[column] is not None for row in found)


def test_pairs_are_built_from_scored_responses(tmp_path: Path, run: Select) -> None:
    rows = [
        {
            "prompt": f"question {n}", "all_generated_responses": [f"a{n}", f"b{n}", f"c{n}", f"a{n}"],
            "all_rm_scores": [0.1 * n, 1.0, -1.0 - n, 0.1 * n],
        }
        for n in range(6)
    ]  # fmt: skip
    rows[3]["all_rm_scores"] = [0.5, 0.5, 0.5, 0.5]
    outcome = run(write_rows(tmp_path / "a.jsonl", rows), metric="explicit_margin", keep=1.0)
    found = kept(tmp_path / "out")
    assert len(found) == 5
    assert found[0]["reward_chosen"] - found[0]["reward_rejected"] == found[0]["explicit_margin"]
    assert [row["rejected"][0]["content"] for row in found] == ["c5", "c4", "c2", "c1", "c0"]
    building = outcome.summary["pair_building"]
    assert building["num_prompts"] == 6
    unused = pq.read_table(tmp_path / "out" / "unused", partitioning=None).to_pylist()
    assert len(unused) == 24 - 10 == sum(building["unused"].values())
    assert {row["reason"] for row in unused} >= {"zero_margin"}
    every = run(
        write_rows(tmp_path / "a.jsonl", rows),
        metric="explicit_margin",
        pairs="all",
        keep=1.0,
        out=str(tmp_path / "all"),
    )
    assert every.summary["pair_building"]["num_pairs"] > 5


# ------------------------------------------------------------------------------------- kills, locks, what is there


def test_a_stopped_selection_goes_on_where_it_was(
    tmp_path: Path, tiny_world: Path, run: Select, fakes: Fakes, capfd: pytest.CaptureFixture[str]
) -> None:
    source = write_rows(tmp_path / "a.jsonl", text_rows(30, columns=False))
    models = {"policy": str(tiny_world / "policy"), "reward_model": str(tiny_world / "reward_model")}
    whole = run(source, out=str(tmp_path / "whole"), **models)
    asked = (list(fakes.scorer.seen), list(fakes.logprobs.seen))
    fakes.scorer.seen, fakes.logprobs.seen = [], []

    score, logprobs = fakes.scorer.score, fakes.logprobs.logprobs

    def killed(real: Any, after: int) -> Any:
        calls = 0

        def call(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > after:
                raise KeyboardInterrupt
            return real(*arguments)

        return call

    fakes.scorer.score = killed(score, 3)  # type: ignore[method-assign]
    with pytest.raises(Interrupted) as found:
        run(source, **models)
    assert "same command" in found.value.hint
    fakes.scorer.score = score  # type: ignore[method-assign]
    fakes.logprobs.logprobs = killed(logprobs, 2)  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        run(source, **models)
    fakes.logprobs.logprobs = logprobs  # type: ignore[method-assign]
    again = run(source, **models)
    assert "round 1 logprobs: 2 shards of an earlier attempt are adopted" in capfd.readouterr().err
    # nothing was computed twice, and the result is that of a run without a stop
    assert (fakes.scorer.seen, fakes.logprobs.seen) == asked
    assert again.summary["selection"] == whole.summary["selection"]
    for part in ("kept", "dropped"):
        assert pq.read_table(tmp_path / "out" / part).equals(pq.read_table(tmp_path / "whole" / part))
    assert not list((tmp_path / "out" / ".run" / ".work").iterdir())


def test_a_finished_selection_is_said_to_be_there(tmp_path: Path, run: Select) -> None:
    source = number_table(tmp_path / "a.parquet")
    first = run(source)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    again = run(source)
    assert again.was_there
    assert again.summary == first.summary
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}


def test_another_selection_is_refused_with_a_diff(tmp_path: Path, run: Select) -> None:
    source = number_table(tmp_path / "a.parquet")
    run(source)
    with pytest.raises(DriftError) as found:
        run(source, keep=0.5, weight=2.5)
    assert "keep: 0.4 -> 0.5" in found.value.message
    assert "weight: 1.0 -> 2.5" in found.value.message
    number_table(source, seed=1)
    with pytest.raises(DriftError, match="the content of dataset has changed"):
        run(source)
    (tmp_path / "out" / "kept" / "part-00000.parquet").write_bytes(b"")
    with pytest.raises(CorruptionError, match="0 bytes"):
        run(source)


def test_an_unfinished_selection_is_not_gone_on_with_by_another(
    tmp_path: Path, tiny_world: Path, run: Select, fakes: Fakes
) -> None:
    source = write_rows(tmp_path / "a.jsonl", text_rows(8, columns=False))
    flags = {"metric": "explicit_margin", "reward_model": str(tiny_world / "reward_model")}

    def broken(items: Any) -> Any:
        raise BackendError("out of memory", "Mend it, then `selfplay resume`.")

    fakes.scorer.score = broken  # type: ignore[method-assign]
    with pytest.raises(BackendError) as failed:
        run(source, **flags)
    assert failed.value.hint.startswith("Mend it, then the same command.\n  -> The run is ")
    with pytest.raises(DriftError, match="was begun with other settings"):
        run(source, seed=3, **flags)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, run: Select) -> None:
    source = number_table(tmp_path / "a.parquet")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"not empty: it holds precious\.txt"):
        run(source)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["precious.txt"]
    with pytest.raises(ConfigError, match="is a file"):
        run(source, out=str(source))


def test_two_cannot_write(tmp_path: Path, run: Select) -> None:
    source = number_table(tmp_path / "a.parquet")
    with Record(tmp_path / "out").holding(), pytest.raises(LockedError, match="another `selfplay select`"):
        run(source)
    assert not run(source).was_there


def test_a_record_that_was_changed_is_corruption(tmp_path: Path, tiny_world: Path, run: Select, fakes: Fakes) -> None:
    source = write_rows(tmp_path / "a.jsonl", text_rows(8, columns=False))
    flags = {"reward_model": str(tiny_world / "reward_model"), "policy": str(tiny_world / "policy")}
    logprobs = fakes.logprobs.logprobs

    def broken(*arguments: Any) -> Any:
        raise BackendError("gone")

    fakes.logprobs.logprobs = broken  # type: ignore[method-assign]
    with pytest.raises(BackendError):
        run(source, **flags)
    fakes.logprobs.logprobs = logprobs  # type: ignore[method-assign]
    part = tmp_path / "out" / ".run" / "rounds" / "001" / "sample" / "part-00000.parquet"
    table = pq.read_table(part)
    pq.write_table(table.set_column(0, "response_id", pa.array(["x"] * table.num_rows)), part)
    with pytest.raises(CorruptionError):
        run(source, **flags)
