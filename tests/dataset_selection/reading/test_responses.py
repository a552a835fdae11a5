"""Several responses for each prompt: lists in one row, or one row a response."""

import json

import pytest

from selfplay.core.errors import DataError
from selfplay.dataset_selection.reading.dataset import read_dataset


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


ARMORM = {
    "prompt_id": "p1",
    "prompt": "2 + 2?",
    "chosen": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}],
    "rejected": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "5"}],
    "all_generated_responses": ["4", "5", "4!"],
    "all_rm_scores": [0.2, 0.1, 0.15],
}


def test_lists_with_scores_as_in_the_armorm_sets(tmp_path):
    path = write(tmp_path / "a.jsonl", [ARMORM])
    assert read_dataset(path).kind == "pairs"
    dataset = read_dataset(path, prefer="responses")
    assert dataset.kind == "responses" and dataset.pairs is None and dataset.num_rows == 1
    assert dataset.prompts.column("messages").to_pylist() == [[{"role": "user", "content": "2 + 2?"}]]
    rows = dataset.responses.to_pylist()
    assert [(row["response_id"], row["prompt_id"], row["text"], row["reward"]) for row in rows] == [
        ("p1-0", "p1", "4", 0.2),
        ("p1-1", "p1", "5", 0.1),
        ("p1-2", "p1", "4!", 0.15),
    ]
    assert [row["response_index"] for row in rows] == [0, 1, 2] and {row["drop_reason"] for row in rows} == {None}
    assert dataset.recognised["rewards"] == "all_rm_scores"


def test_lists_without_scores_and_with_the_users_names(tmp_path):
    rows = [{"question": "a", "texts": ["b", "c"], "marks": [1, 2], "lens": [3, 4], "hard": 0.5}]
    path = write(tmp_path / "a.jsonl", rows)
    dataset = read_dataset(
        path, columns={"responses": "texts", "rewards": "marks", "nums_tokens": "lens"}, wanted=["hard"]
    )
    assert dataset.responses.column("reward").to_pylist() == [1.0, 2.0]
    assert dataset.responses.column("num_tokens").to_pylist() == [3, 4]
    assert dataset.prompts.column("hard").to_pylist() == [0.5]
    bare = read_dataset(path, columns={"responses": "texts"})
    assert "reward" not in bare.responses.column_names
    assert json.loads(bare.prompts.column("columns_json")[0].as_py())["marks"] == [1, 2]


def test_a_response_that_cannot_be_used_takes_no_other_with_it(tmp_path):
    row = {"prompt": "a", "responses": ["b", "", None, "c", "d\ud800"], "rewards": [1, 2, 3, float("nan"), 5]}
    dataset = read_dataset(write(tmp_path / "a.jsonl", [row]))
    found = [(row["text"], row["reward"], row["drop_reason"]) for row in dataset.responses.to_pylist()]
    assert found == [
        ("b", 1.0, None), ("", 2.0, "empty"), ("", 3.0, "null_value"), ("c", None, "reward_not_finite"), ("", 5.0, "not_unicode"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"rewards": [1.0]}, "lists_differ_in_length"),
        ({"responses": []}, "empty_list"),
        ({"responses": None}, "null_value"),
        ({"responses": "b"}, "not_a_list"),
        ({"responses": ["", " "]}, "no_usable_response"),
        ({"rewards": [None, "x"]}, "no_usable_response"),
        ({"prompt": " "}, "empty_text"),
    ],
)
def test_bad_rows_of_lists(tmp_path, change, reason):
    good = {"prompt": "a", "responses": ["b", "c"], "rewards": [1.0, 2.0]}
    dataset = read_dataset(write(tmp_path / "a.jsonl", [good, {**good, **change}]))
    assert dataset.bad_rows.counts == {reason: 1} and dataset.prompts.num_rows == 1 and dataset.num_rows == 2


def test_one_row_a_response(tmp_path):
    rows = [
        {"prompt": "a", "completion": "x", "score": "0.5", "skill": "s"},
        {"prompt": "b", "completion": "y", "score": 1},
        {"prompt": "a", "completion": [{"role": "assistant", "content": "z"}], "score": 2},
        {"prompt": "a", "completion": "", "score": 2},
        {"prompt": "c", "completion": "w", "score": None},
    ]
    dataset = read_dataset(write(tmp_path / "a.jsonl", rows))
    found = dataset.responses.to_pylist()
    assert [(row["text"], row["response_index"], row["reward"], row["source_row"]) for row in found] == [
        ("x", 0, 0.5, 1),
        ("y", 0, 1.0, 2),
        ("z", 1, 2.0, 3),
    ]
    assert found[0]["prompt_id"] == found[2]["prompt_id"] != found[1]["prompt_id"]
    assert dataset.prompts.num_rows == 2  # the prompt of the row without a reward has no response
    assert dataset.bad_rows.counts == {"empty_text": 1, "null_value": 1} and dataset.num_rows == 5


def test_one_row_a_response_with_ids(tmp_path):
    rows = [
        {"id": n, "prompt_id": f"p{n // 2}", "prompt": f"q{n // 2}", "response": f"r{n}", "reward": n} for n in range(4)
    ]
    dataset = read_dataset(write(tmp_path / "a.jsonl", rows))
    assert dataset.responses.column("response_id").to_pylist() == ["0", "1", "2", "3"]
    assert dataset.prompts.column("prompt_id").to_pylist() == ["p0", "p1"]
    rows[3]["prompt_id"] = "p0"
    clash = read_dataset(write(tmp_path / "b.jsonl", rows))
    assert "p0" not in clash.prompts.column("prompt_id").to_pylist()
    assert any("for different prompts" in note for note in clash.notes)


def test_responses_without_a_prompt_are_refused(tmp_path):
    with pytest.raises(DataError, match="no prompt column"):
        read_dataset(write(tmp_path / "a.jsonl", [{"response": "a", "reward": 1}]))


def test_lists_in_the_place_of_one_response_are_explained(tmp_path):
    rows = [{"instruction": "a", "input": "", "output": ["good", "bad"]}] * 3
    with pytest.raises(DataError, match="column 'output' holds 2 texts, not one") as found:
        read_dataset(write(tmp_path / "a.jsonl", rows))
    assert "responses=COLUMN" in found.value.hint and "[chosen, rejected]" in found.value.hint


@pytest.mark.parametrize("scores", ["rating", "ratings"])
def test_distilabels_columns_are_recognised(tmp_path, scores):
    row = {"instruction": "a", "generations": ["x", "y"], scores: [5, None], "generation_models": ["m", "n"]}
    dataset = read_dataset(write(tmp_path / "a.jsonl", [row]))
    assert dataset.recognised["responses"] == "generations" and dataset.recognised["rewards"] == scores
    assert dataset.responses.column("reward").to_pylist() == [5.0, None]
