"""The shapes of public preference datasets, each as a pair (or responses) that is known."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfplay.core.errors import DataError
from selfplay.dataset_selection.reading.dataset import OfflineDataset, read_dataset


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def answer(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def human(content: str) -> str:
    return f"\n\nHuman: q\n\nAssistant: {content}"


def read(folder: Path, rows: list[dict[str, Any]], **options: Any) -> OfflineDataset:
    """The rows as JSON Lines; those of Parquet are the same, file name aside."""
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_dataset(str(folder / "a.jsonl"), **options)
    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    columns = read_dataset(str(folder / "a.parquet"), **options)
    assert columns.recognised == found.recognised and columns.bad_rows.counts == found.bad_rows.counts
    return found


SAFE = {"prompt": "q", "response_0": "x", "response_1": "y", "is_response_0_safe": True, "is_response_1_safe": False}
HELPSTEER = {"prompt": "q", "response_1": "x", "response_2": "y"}
ARENA = {
    "conversation_a": [user("q"), answer("x")],
    "conversation_b": [user("q"), answer("y")],
    "model_a": "m",
    "model_b": "n",
}
TEXTS_55K = {"prompt": '["q"]', "response_a": '["x"]', "response_b": '["y"]'}
DIALOGUES = {"chosen": [user("q"), answer("x")], "rejected": [user("q"), answer("y")]}


@pytest.mark.parametrize(
    "row",
    [
        pytest.param({**SAFE, "better_response_id": 0}, id="SafeRLHF"),
        pytest.param({**HELPSTEER, "preference_strength": -2}, id="HelpSteer2"),
        pytest.param(
            {"context": [user("q")], "response1": "x", "response2": "y", "overall_preference": -1}, id="HelpSteer3"
        ),
        pytest.param({**ARENA, "winner": "model_a"}, id="Arena"),
        pytest.param({**TEXTS_55K, "winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0}, id="Arena 55k"),
        pytest.param({"instruction": "q", "output_1": "x", "output_2": "y", "preference": "1"}, id="AlpacaFarm"),
        pytest.param(
            {"history": "q", "human_ref_A": "x", "human_ref_B": "y", "score_A": 5, "score_B": 2, "labels": 1}, id="SHP"
        ),
        pytest.param(
            {"question": {"full_text": "q"}, "answer_0": "x", "answer_1": "y", "score_0": 0.5, "score_1": -0.5}, id="WebGPT"
        ),
        pytest.param({"chosen": human("x"), "rejected": human("y")}, id="HH"),
        pytest.param({**DIALOGUES, "source": "s"}, id="Skywork"),
        pytest.param({"messages": DIALOGUES["chosen"], "rejected_response": "y"}, id="ms-swift"),
        pytest.param({"messages": DIALOGUES["chosen"], "rejected_messages": DIALOGUES["rejected"]}, id="ms-swift messages"),
        pytest.param({**DIALOGUES, "conversation": [{"input": "q", "output": "x"}], "prompt": "q"}, id="Capybara"),
        pytest.param(
            {"input": {"messages": [user("q")]}, "preferred_output": [answer("x")], "non_preferred_output": [answer("y")]},
            id="OpenAI",
        ),
        pytest.param({"id": 1, "prompt": "q", "chosen": "x", "rejected": "y", "subset": "s"}, id="RewardBench"),
        pytest.param({"prompt": "q", "chosen": ["x"], "rejected": ["y"]}, id="RewardBench 2, one of each"),
        pytest.param({"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "x"},
                      "rejected": {"from": "gpt", "value": "y"}}, id="LLaMA-Factory"),
    ],
)  # fmt: skip
def test_one_pair_of_each_shape(tmp_path: Path, row: dict[str, Any]) -> None:
    pairs = read(tmp_path, [row]).pairs
    assert pairs is not None
    assert [pairs[name].to_pylist() for name in ("prompt", "chosen", "rejected")] == [
        [[user("q")]], [[answer("x")]], [[answer("y")]]
    ]  # fmt: skip


def test_several_rejected_texts_of_a_row_are_several_pairs(tmp_path: Path) -> None:
    """RewardBench 2; its ties have several chosen texts too."""
    two = {"id": "a", "prompt": "q", "chosen": ["x"], "rejected": ["y", "z"], "subset": "Math"}
    tie = {"id": "b", "prompt": "p", "chosen": ["red", "blue"], "rejected": ["1", "2", "3"], "subset": "Ties"}
    dataset = read(tmp_path, [two, tie, {**two, "id": "c", "rejected": ["y", ""]}])
    assert dataset.pairs is not None and dataset.num_rows == 3 and dataset.bad_rows.counts == {"empty_text": 1}
    pairs = dataset.pairs.to_pylist()
    assert [(pair["pair_id"], pair["chosen"][0]["content"], pair["rejected"][0]["content"]) for pair in pairs] == [
        ("a-0", "x", "y"), ("a-1", "x", "z"),
        ("b-0", "red", "1"), ("b-1", "red", "2"), ("b-2", "red", "3"),
        ("b-3", "blue", "1"), ("b-4", "blue", "2"), ("b-5", "blue", "3"),
    ]  # fmt: skip
    assert [pair["source_row"] for pair in pairs] == [1, 1, *[2] * 6]
    assert any(note.startswith("2 rows have several chosen or rejected texts") for note in dataset.notes)
    with pytest.raises(DataError, match="do not say which pair"):
        read(tmp_path, [{**two, "score_chosen": 2, "score_rejected": 1}])
    with pytest.raises(DataError, match="they may be turns"):
        read(tmp_path, [{"prompt": "q", "chosen": ["q", "x"], "rejected": ["q", "y"]}])
    dialogues = {"chosen": [DIALOGUES["chosen"]], "rejected": [DIALOGUES["rejected"], [user("q"), answer("z")]]}
    found = read(tmp_path, [{**dialogues, "rejected": [*dialogues["rejected"]], "chosen": DIALOGUES["chosen"]}]).pairs
    assert found is not None and [pair[0]["content"] for pair in found["rejected"].to_pylist()] == ["y", "z"]
    turns = {"prompt": ["q1", "q2"], "chosen": ["a1", "a2"], "rejected": ["b1", "b2"]}  # one conversation of two turns
    with pytest.raises(DataError, match="differ before"):
        read(tmp_path, [turns])


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(
            [{"instruction": "q", "completions": [{"response": "x", "overall_score": 2.0, "model": "m"},
                                                  {"response": "y", "overall_score": 1.0, "model": "n"}]}],
            id="UltraFeedback",
        ),
        pytest.param(
            [{"prompt": human(""), "answers": [{"answer": "x", "rank": -2.0}, {"answer": "y", "rank": -1.0}]}],
            id="Nectar",
        ),
        pytest.param([{"prompt": "q", "responses": ["x", "y"], "ranks": [-2, -1]}], id="ranks"),
        pytest.param([{"conversations": [DIALOGUES["chosen"], DIALOGUES["rejected"]], "scores": [2, 1]}], id="dialogues"),
        pytest.param([{"prompt": "q", "responses": [human("x"), human("y")], "scores": [2, 1]}], id="dialogues as texts"),
        pytest.param(
            [{"messages": [user("q"), answer("x")], "score": 2}, {"messages": [user("q"), answer("y")], "score": 1}],
            id="a score for each dialogue",
        ),
        pytest.param(
            [{"prompt": "q", "response": "x", "rank": -2}, {"prompt": "q", "response": "y", "rank": -1}], id="a rank for each row"
        ),
    ],
)  # fmt: skip
def test_the_responses_of_each_shape(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    dataset = read(tmp_path, rows)
    assert dataset.prompts is not None and dataset.responses is not None
    assert dataset.prompts["messages"].to_pylist() == [[user("q")]]
    assert dataset.responses["text"].to_pylist() == ["x", "y"] and dataset.responses["reward"].to_pylist() == [2, 1]


def test_kto_rows_have_booleans_as_rewards(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "completion": text, "label": text == "x"} for text in "xy"]
    responses = read(tmp_path, rows).responses
    assert responses is not None and responses["reward"].to_pylist() == [1, 0]


def test_what_belongs_to_one_response_goes_with_it(tmp_path: Path) -> None:
    rows = [{**ARENA, "winner": "model_b", "score_a": 1, "score_b": 2, "turn": 1}]
    pairs = read(tmp_path, rows).pairs
    assert pairs is not None and pairs["reward_chosen"].to_pylist() == [2.0]
    assert json.loads(pairs["columns_json"][0].as_py()) == {"model_chosen": "n", "model_rejected": "m", "turn": 1}
    rows = [
        {
            "prompt": "q",
            "completions": [{"text": text, "score": 1, "model": text} for text in "xy"],
            "models": ["m", "n"],
        }
    ]
    responses = read(tmp_path, rows).responses
    assert responses is not None
    assert [json.loads(text)["model"] for text in responses["columns_json"].to_pylist()] == ["x", "y"]


def test_a_strength_is_the_explicit_margin_where_there_are_no_rewards(tmp_path: Path) -> None:
    dataset = read(tmp_path, [{**HELPSTEER, "preference_strength": strength} for strength in (-2, 0, 3, None)])
    assert dataset.pairs is not None and dataset.pairs["explicit_margin"].to_pylist() == [2, 3]
    assert dataset.pairs["chosen"].to_pylist() == [[answer("x")], [answer("y")]]
    assert dataset.bad_rows.counts == {"null_value": 1, "tie": 1}
    assert any("below 0 means that 'response_1' is better" in note for note in dataset.notes)


@pytest.mark.parametrize(
    "columns, values, chosen",
    [
        (("response_a", "response_b"), ["A", "b ", "tie", "model_a"], ["x", "y", "x"]),
        (("response_a", "response_b"), [1, 2, 2, 1], ["x", "y", "y", "x"]),
        (("response_1", "response_2"), [1, 2, 2, 1], ["x", "y", "y", "x"]),
        (("response_0", "response_1"), ["0", "1", 1, False], ["x", "y", "y", "x"]),
        (("response_1", "response_2"), [-1, 1, 0, 2], ["x", "y", "y"]),
        (("response_a", "response_b"), [-0.5, "0.5", 2.5, 0.0], ["x", "y", "y"]),
        (("answer_a", "answer_b"), ["answer_b", "first", "both", "b"], ["y", "x", "y"]),
    ],
)
def test_what_a_preference_may_hold(
    tmp_path: Path, columns: tuple[str, str], values: list[Any], chosen: list[str]
) -> None:
    rows = [{"prompt": "q", columns[0]: "x", columns[1]: "y", "preference": value} for value in values]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = read_dataset(str(tmp_path / "a.jsonl"))
    assert dataset.pairs is not None
    assert [row["chosen"][0]["content"] for row in dataset.pairs.to_pylist()] == chosen
    assert dataset.bad_rows.counts.get("tie", 0) == 4 - len(chosen) == dataset.bad_rows.count


@pytest.mark.parametrize("values", [[0, 1], [1, 1], [True, False], [0, 1, 2], ["good", "bad"], [0.3, 0.8]])
def test_a_preference_with_two_meanings_is_refused(tmp_path: Path, values: list[Any]) -> None:
    rows = [{"prompt": "q", "response_a": "x", "response_b": "y", "preference": value} for value in values]
    with pytest.raises(DataError, match="it is not clear whether"):
        read(tmp_path, rows)


def test_numbers_that_are_no_sign_are_refused(tmp_path: Path) -> None:
    """-1 beside labels may be a tie, and a scale from 1 to 8 has no sign."""
    rows = [{"prompt": "q", "response_0": "x", "response_1": "y", "preference": value} for value in (0, 1, -1)]
    with pytest.raises(DataError, match="it is not clear whether -1 "):
        read(tmp_path, rows)
    rows = [{"prompt": "q", "response_1": "x", "response_2": "y", "preference_strength": value} for value in (1, 8)]
    with pytest.raises(DataError, match=r"no number in column 'preference_strength' is below 0 \(they go from 1 to 8"):
        read(tmp_path, rows)
    with pytest.raises(DataError, match=r"below 0 \(they go from 0 to 1"):
        read(tmp_path, [{**row, "preference_strength": value} for row, value in zip(rows, (0, 1), strict=True)])
    pairs = read(tmp_path, rows, columns={"preference_strength": "preference_strength"}).pairs
    assert pairs is not None and pairs["explicit_margin"].to_pylist() == [1, 8]


@pytest.mark.parametrize(
    "labels, values", [((1, 2), (0, 1)), ((0, 1), (1, 2)), ((0, 1), ("1", "2")), ((0, 1), (1, 2, 3))]
)
def test_numbers_that_are_counted_from_another_number_are_refused(
    tmp_path: Path, labels: tuple[int, int], values: tuple[object, ...]
) -> None:
    responses = {f"response_{label}": f"r{label}" for label in labels}
    rows = [{"prompt": "q", **responses, "preference": value} for value in values]
    with pytest.raises(DataError, match="it is not clear whether"):
        read(tmp_path, rows)


def test_more_than_two_responses_are_no_choice(tmp_path: Path) -> None:
    row = {"prompt": "q", **{f"response_{at}": "x" for at in (1, 2, 3)}, **{f"score_{at}": at for at in (1, 2, 3)}}
    with pytest.raises(DataError, match="more than two responses for each prompt: response_1, response_2, response_3"):
        read(tmp_path, [row])
    pairs = read(tmp_path, [row], columns={"response_a": "response_1", "response_b": "response_3"}).pairs
    assert pairs is not None and pairs["reward_chosen"].to_pylist() == [3]


def test_words_that_say_which_response_is_chosen_are_no_responses(tmp_path: Path) -> None:
    row = {
        "prompt": "q",
        "response_a": "the first answer",
        "response_b": "the second one",
        "chosen": "A",
        "rejected": "B",
    }
    with pytest.raises(DataError, match="hold single words, and the texts seem to be in response_a and response_b"):
        read(tmp_path, [row])
    pairs = read(tmp_path, [row], columns={"preference": "chosen"}).pairs
    assert pairs is not None and pairs["chosen"].to_pylist() == [[answer("the first answer")]]
    pairs = read(tmp_path, [row], columns={"chosen": "chosen", "rejected": "rejected"}).pairs
    assert pairs is not None and pairs["chosen"].to_pylist() == [[answer("A")]]


def test_what_may_belong_to_a_conversation_is_known_by_its_texts(tmp_path: Path) -> None:
    """The tables of a question for SQL, the steps before an answer, the pages that were read: whatever their names are."""
    schema, steps = "CREATE TABLE t (a INT, b TEXT)", "Step 1: we take the first number."
    row = {
        "question": "q",
        "chosen": "c",
        "rejected": "r",
        "schema": schema,
        "initial_steps": steps,
        "rationale": schema,
    }
    assert read(tmp_path, [row]).notes == [
        "'schema', 'initial_steps': not used as part of the conversation, only text turns are read"
    ]
    row = {
        "prompt": "q",
        **{f"answer_{at}": "x" for at in "01"},
        "score_0": 1,
        "score_1": 2,
        "quotes_0": {"of": [schema]},
    }
    assert any(note.startswith("'quotes_0': not used") for note in read(tmp_path, [row]).notes)


def test_messages_as_an_object_of_lists(tmp_path: Path) -> None:
    """As `datasets` stores a list of messages that its features call a Sequence."""
    row = {side: {"role": ["user", "assistant"], "content": ["q", side]} for side in ("chosen", "rejected")}
    pairs = read(tmp_path, [row]).pairs
    assert pairs is not None and pairs["prompt"].to_pylist() == [[user("q")]]
    assert pairs["rejected"].to_pylist() == [[answer("rejected")]]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_utf_16_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"prompt": "q", "chosen": "c", "rejected": "r"}', encoding="utf-16")
    with pytest.raises(DataError, match="is UTF-16"):
        read_dataset(str(tmp_path / name))


def test_a_margin_may_be_of_either_sign_and_is_named(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "response_a": "x", "response_b": "y", "margin": value} for value in (-1, 1)]
    with pytest.raises(DataError) as caught:
        read(tmp_path, rows, columns={"preference": "margin"})
    assert "--columns preference_strength=margin" in caught.value.hint
    pairs = read(tmp_path, rows, columns={"preference_strength": "margin"}).pairs
    assert pairs is not None and pairs["chosen"].to_pylist() == [[answer("x")], [answer("y")]]


def test_a_response_without_a_score_takes_no_other_with_it(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "completions": [{"text": "x", "score": 1}, {"text": "y"}, {"score": 2}]}]
    responses = read(tmp_path, rows).responses
    assert responses is not None and responses["drop_reason"].to_pylist() == [None, "reward_not_finite", "null_value"]


def test_an_answer_beside_a_dialogue_that_goes_on_is_refused(tmp_path: Path) -> None:
    turns = [user("q"), answer("a"), user("r"), answer("x")]
    rows = [{"prompt": "q", "chosen": turns, "rejected": [answer("y")]}]
    with pytest.raises(DataError, match="differs_before_last_turn"):
        read(tmp_path, rows)
    rows = [{"prompt": "q", "responses": [turns, [user("q"), answer("y")]], "scores": [1, 2]}]
    with pytest.raises(DataError, match="differs_before_last_turn"):
        read(tmp_path, rows)


def test_surroundings_are_used_or_named(tmp_path: Path) -> None:
    history = {"instruction": "q", "history": [["a", "b"]], "chosen": "x", "rejected": "y"}
    pairs = read(tmp_path, [history]).pairs
    assert pairs is not None and pairs["prompt"].to_pylist() == [[user("a"), answer("b"), user("q")]]
    odd = {"bunch": [user("z")], "picture_url": "u", "parent_id": "7", "tool_calls_json": "[]", "conversation_id": "c"}
    notes = read(tmp_path, [{**DIALOGUES, **odd}]).notes
    assert notes == [
        "'bunch', 'picture_url', 'parent_id', 'tool_calls_json': not used as part of the conversation, only text turns are read"
    ]
    named = {"chosen": [user("q"), {**answer("x"), "name": "Ann"}], "rejected": DIALOGUES["rejected"]}
    (tmp_path / "b.jsonl").write_text(json.dumps(named))
    assert "the messages also have 'name': not used" in read_dataset(str(tmp_path / "b.jsonl")).notes[0]


def test_the_output_of_a_chat_template_is_named(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": "<|im_start|>user\nq<|im_end|>\n",
            "chosen": "Human: q\nAssistant: x",
            "rejected": "y",
            "note": "[INST] z",
        }
    ]
    notes = read(tmp_path, rows).notes
    assert notes == [
        "'chosen', 'prompt': some texts look like the output of a chat template, they are read as plain texts"
    ]


def test_dialogues_have_their_prompt_in_them(tmp_path: Path) -> None:
    dataset = read(tmp_path, [{**DIALOGUES, "context": "a document", "input": "z", "problem": "p"}])
    assert dataset.pairs is not None and dataset.pairs["prompt"].to_pylist() == [[user("q")]]
    assert dataset.notes == [
        "'context', 'input', 'problem': not used as part of the conversation, only text turns are read"
    ]


def test_lists_as_text_are_said(tmp_path: Path) -> None:
    """RewardBench 2 as pandas writes it into CSV. In other data the list is the answer."""
    (tmp_path / "a.csv").write_text("prompt,chosen,rejected\nq,\"['x']\",\"['y', 'z']\"\n")
    dataset = read_dataset(str(tmp_path / "a.csv"))
    (note,) = dataset.notes
    assert note.startswith("'chosen', 'rejected': some texts look like lists of texts")
    turns = read(tmp_path, [{**TEXTS_55K, "winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0}])
    assert not [note for note in turns.notes if "lists of texts" in note]


def test_preferences_in_a_csv_may_be_empty(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,response_1,response_2,preference\nq,x,y,-2\nq,x,y,\nq,x,y,nan\nq,x,y,2\n")
    dataset = read_dataset(str(tmp_path / "a.csv"))
    assert dataset.pairs is not None and dataset.pairs["chosen"].to_pylist() == [[answer("x")], [answer("y")]]
    assert dataset.bad_rows.counts == {"not_finite": 1, "null_value": 1}


def test_an_object_of_lists_is_a_list_of_objects(tmp_path: Path) -> None:
    """As `datasets` stores a list of objects that its features call a Sequence."""
    row = {"prompt": "q", "completions": {"text": ["x", "y"], "score": [1.0, 2.0], "model": ["m", "n"]}}
    found = read(tmp_path, [row])
    assert found.responses is not None and found.responses["reward"].to_pylist() == [1.0, 2.0]
    assert found.responses["columns_json"].to_pylist() == ['{"model":"m"}', '{"model":"n"}']


def test_what_may_be_wrong_with_texts_is_said(tmp_path: Path) -> None:
    rows = [{"prompt": "a question", "chosen": f"a question {n}", "rejected": "a question?"} for n in range(3)]
    assert any("both answers begin with the text of the prompt" in note for note in read(tmp_path, rows).notes)
    rows += [{"prompt": f"q{n}", "chosen": "None", "rejected": f"{n}"} for n in range(3)]
    (note,) = read(tmp_path, rows).notes
    assert note.startswith("'chosen': some texts are 'None', 'nan' or the like")
    (note,) = read(tmp_path, [{"prompt": "q", "chosen": "x", "rejected": "y", "chosen_thinking": "z"}]).notes
    assert "'chosen_thinking': not used as part of the conversation" in note


def test_files_that_are_not_there_and_files_that_are_there_twice(tmp_path: Path) -> None:
    line = json.dumps({"prompt": "q", "chosen": "x", "rejected": "y"}) + "\n"
    for number in (0, 3):
        (tmp_path / f"train-0000{number}-of-00005.jsonl").write_text(line)
    (note,) = read_dataset(str(tmp_path)).notes
    assert note == "3 of the 5 files train-N-of-5 are missing (N = 1, 2, 4): the others are read"
    with gzip.open(tmp_path / "train-00003-of-00005.jsonl.gz", "wt") as file:
        file.write(line)
    with pytest.raises(DataError, match=r"holds train-00003-of-00005.jsonl several times, packed and unpacked"):
        read_dataset(str(tmp_path))


def test_steps_of_one_answer_are_no_answers(tmp_path: Path) -> None:
    """TRL's form for process rewards has the names of several answers."""
    rows = [{"prompt": "q", "completions": ["step 1", "step 2"], "labels": [True, False]}]
    with pytest.raises(DataError, match="or the steps of one answer"):
        read(tmp_path, rows)
    responses = read(tmp_path, rows, columns={"rewards": "labels"}).responses
    assert responses is not None and responses["reward"].to_pylist() == [1, 0]
