"""Real input: dialogues through `selfplay select` with a policy and a reward model on Ray, killed and gone on with."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.behaviour.real.conftest import num_kept, wait_for

DATA = Path(os.environ.get("SELFPLAY_REAL_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))
SOURCE = DATA / "hh-harmless" / "test.jsonl.gz"
NUM_DIALOGUES = 400


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not SOURCE.is_file(), reason=f"the dialogues are not at {SOURCE}")
def test_dialogues_are_scored_killed_and_gone_on_with(tiny_world: Path, tmp_path: Path, selfplay: Any) -> None:
    with gzip.open(SOURCE, "rt", encoding="utf-8") as file:
        # many shards of a few milliseconds each: a busy machine may look at them late
        lines = [line for line, _ in zip(file, range(NUM_DIALOGUES), strict=False)]
    # the tiny models have 512 positions of one byte each: what is longer must be dropped and said
    source = tmp_path / "dialogues.jsonl"
    source.write_text("".join(lines), encoding="utf-8")
    out = tmp_path / "out"
    command = [
        "select", source, "--metric", "alignment_potential", "--keep", "0.4", "--out", out, "--policy", tiny_world / "policy",
        "--reward-model", tiny_world / "reward_model", "shard_size=4",
    ]  # fmt: skip
    child = selfplay(command, wait=False)
    run = out / ".run"
    work = run / ".work" / "001-score"
    wait_for(lambda: num_kept(run, "001-score") >= 3, child)
    child.kill()
    child.wait()
    kept = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in work.glob("part-*.parquet")}
    adopted = num_kept(run, "001-score")
    assert adopted < NUM_DIALOGUES // 4, "the kill came after the last shard"

    selfplay(command)
    text = (tmp_path / "output.txt").read_text()
    assert f"score: {adopted} shards of an earlier attempt are adopted" in text
    made = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (run / "rounds/001/score").glob("part-*")
    }
    assert kept and kept.items() <= made.items()
    summary = json.loads((out / "summary.json").read_text())
    rows = [row for part in ("kept", "dropped") for row in pq.read_table(out / part, partitioning=None).to_pylist()]
    assert len(rows) + summary["bad_rows"]["count"] == NUM_DIALOGUES
    ranked = [row for row in rows if row["rank"] is not None]
    assert sorted(row["rank"] for row in ranked) == list(range(1, len(ranked) + 1))
    assert len([row for row in rows if row["kept"]]) == round(0.4 * len(ranked)) >= 5
    originals = [json.loads(line) for line in lines]
    for row in rows:
        original = originals[row["source_row"] - 1]
        assert original["chosen"].endswith(row["chosen"][-1]["content"])
        assert row["prompt"][-1]["role"] == "user"
        assert (row["rank"] is None) == (row["drop_reason"] not in (None, "not_selected"))
    for row in ranked:
        means = [row[f"policy_logp_{side}"] / row[f"num_tokens_{side}"] for side in ("chosen", "rejected")]
        assert row["implicit_margin"] == pytest.approx(means[0] - means[1])
        assert all(math.isfinite(row[name]) for name in ("reward_chosen", "reward_rejected", "alignment_potential"))
    assert summary["selection"]["drop_reasons"].keys() >= {"too_long_for_reward_model", "not_selected"}
    assert not work.exists()
