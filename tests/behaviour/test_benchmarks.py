"""The benchmarks' own parts run: on small work, without a look at the clock."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from benchmarks import published_loop
from benchmarks.figures import Figure, alternate, median_of
from benchmarks.plain_loops import RoundWork, Sampling
from benchmarks.ranking_parts import bare, make, ours
from selfplay.core.protocols import TrainJob, TrainPair


def test_ours_keeps_what_the_bare_rule_keeps(tmp_path: Path) -> None:
    table = str(tmp_path / "table.parquet")
    make(table, "1000")
    assert ours(table, str(tmp_path / "result"))["num_kept"] == 400
    assert bare(table)


def test_runs_alternate() -> None:
    order: list[str] = []

    def run(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = alternate({"ours": lambda: run("ours"), "bare": lambda: run("bare")}, 3)
    assert order == ["ours", "bare", "bare", "ours", "ours", "bare"]
    assert found == {"ours": [1.0, 4.0, 5.0], "bare": [2.0, 3.0, 6.0]}


def test_a_figure_says_whether_its_bar_holds() -> None:
    timed = median_of("a page", [3.0, 1.0, 2.0], "s", "10 rows", bar=2.0).document()
    assert (timed["value"], timed["spread"], timed["num_runs"], timed["holds"]) == (2.0, [1.0, 3.0], 3, True)
    assert Figure("tokens per second over bare", 0.9, "ratio", "", 0.95, at_least=True).holds is False
    assert Figure("a size", 1.0, "GB", "").holds is None


def test_the_work_of_a_round_passes_through_json(tmp_path: Path) -> None:
    job = TrainJob(
        pairs=[TrainPair("a", [1], [2, 3], [4], -1.0, -2.0, -1.0, -2.0)], policy_dir="/policy", output_dir="/output",
        checkpoint_dir="/checkpoints", seed=0, loss="dpo", beta=0.1, gamma_beta_ratio=None, learning_rate=1e-4, epochs=1,
        batch_size=1, micro_batch_size=1, max_length=8, warmup_ratio=0.0, schedule="cosine", precision="float32",
        engine_dtype="float32", checkpoint_every=0, reference_is_policy=True, max_steps=1,
    )  # fmt: skip
    messages = [[{"role": "user", "content": "hello"}]]
    sampling = Sampling(2, 0.8, 0.95, 64, (4,))
    work = RoundWork("/policy", messages, [[1]], [[5, 6]], sampling, [(0, "one", [2, 3]), (0, "two", [4])], [0, 1], job)
    (tmp_path / "given.json").write_text(json.dumps(dataclasses.asdict(work)))
    found = published_loop.read_work(tmp_path)
    assert list(found.job.pairs) == list(job.pairs) and found.job.limits == job.limits
    assert (found.prompt_token_ids, found.seeds, found.paired) == (work.prompt_token_ids, work.seeds, work.paired)
    assert [tuple(response) for response in found.responses] == work.responses
