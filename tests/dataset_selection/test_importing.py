"""A dataset as the prompts and responses of a round."""

from __future__ import annotations

from pathlib import Path

from selfplay.dataset_selection.importing import as_round
from selfplay.dataset_selection.reading.dataset import read_dataset
from tests.helpers.tables import text_rows, write_rows


def test_pairs_become_two_responses_each(tmp_path: Path) -> None:
    rows = text_rows(3)
    rows[2]["prompt"] = rows[0]["prompt"]
    dataset = read_dataset(str(write_rows(tmp_path / "a.jsonl", rows)))
    found = as_round(dataset)
    assert dataset.pairs is not None
    assert found.prompts["source_row"].to_pylist() == [1, 2]
    assert found.prompt_row_R.tolist() == [0, 1, 0, 0, 1, 0]
    ids = dataset.pairs["pair_id"].to_pylist()
    assert found.responses["response_id"].to_pylist() == [
        f"{one}/{side}" for side in ("chosen", "rejected") for one in ids
    ]
    assert found.responses["text"].to_pylist()[3:] == [row["rejected"][0]["content"] for row in rows]
    assert found.responses["reward"].to_pylist()[:3] == [row["reward_chosen"] for row in rows]
    # numbered within their prompts
    assert found.responses["response_index"].to_pylist() == [0, 0, 1, 2, 1, 3]


def test_responses_stay_as_they_are(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n}", "responses": ["a", "b"], "rewards": [n, 1]} for n in range(2)]
    dataset = read_dataset(str(write_rows(tmp_path / "a.jsonl", rows)))
    found = as_round(dataset)
    assert found.responses is dataset.responses
    assert found.prompt_row_R.tolist() == [0, 0, 1, 1]
