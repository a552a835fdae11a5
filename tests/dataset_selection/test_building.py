"""Pairs of several responses are put together part by part: the parts do not show in the result."""

import json
from pathlib import Path

import pytest

from selfplay.dataset_selection import building
from selfplay.dataset_selection.candidates import Pairs, built
from selfplay.dataset_selection.importing import as_round
from selfplay.dataset_selection.reading.dataset import read_dataset
from selfplay.selection.pair_rules import PairRules
from selfplay.selection.reasons import no_reasons
from selfplay.store import spool as spools
from selfplay.store.spool import Spool

ROWS = [
    {"prompt": f"q{number // 3}", "response": f"answer {number % 7} é", "reward": float(number * 5 % 9),
     "group": f"g{number % 2}", "model": f"m{number}", "topic": f"t{number // 3}"}
    for number in range(30)
]  # fmt: skip


def pairs_of(folder: Path, spool: Spool | None = None) -> Pairs:
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    imported = as_round(read_dataset(str(folder / "a.jsonl"), prefer="responses"))
    rewards = imported.responses["reward"].to_numpy()
    return built(imported, rewards, no_reasons(len(rewards)), None, PairRules(build="all"), 0, spool)


def test_parts_and_spool_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pairs_of(tmp_path)
    monkeypatch.setattr(building, "_AT_A_TIME", 4)
    monkeypatch.setattr(spools, "_IN_MEMORY", 100)
    parts = pairs_of(tmp_path, Spool(tmp_path))
    assert whole.table.num_rows > 20 and parts.table["pair_id"].num_chunks > 5
    assert parts.table.equals(whole.table)
    assert parts.built is not None and whole.built is not None and parts.built.unused.equals(whole.built.unused)
    first = whole.table.to_pylist()[0]
    assert {"source_row_chosen", "group_rejected"} <= first.keys()
    # what differs between the responses of some pair belongs to the responses, in every pair
    assert {*json.loads(first["columns_json"])} == {
        "group_chosen",
        "group_rejected",
        "model_chosen",
        "model_rejected",
        "topic",
    }
