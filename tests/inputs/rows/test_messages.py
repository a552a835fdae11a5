"""The forms of a pair, each read as messages, and the rows that are no pair."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfplay.inputs.rows.bad_rows import BadValue
from selfplay.inputs.rows.messages import read_answer, read_pair


def said(role: str, content: str) -> dict:
    return {"role": role, "content": content}


USER, GOOD, WORSE = said("user", "2 + 2?"), said("assistant", "4"), said("assistant", "5")
SYSTEM, EARLIER = said("system", "Be brief."), [said("user", "Hi."), said("assistant", "Hello.")]
PAIR = ([USER], [GOOD], [WORSE])
HUMAN = "\n\nHuman: 2 + 2?\n\nAssistant:"


def read(values: dict, **columns):
    names = {name: name for name in ("prompt", "chosen", "rejected") if name != "prompt" or name in values}
    return read_pair(values, names | columns)


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [WORSE]},
        {"prompt": "2 + 2?", "chosen": [GOOD], "rejected": [WORSE]},
        {"prompt": "2 + 2?", "chosen": [USER, GOOD], "rejected": [USER, WORSE]},
        {"prompt": "2 + 2?", "chosen": [USER, GOOD], "rejected": [WORSE]},
        {"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, WORSE]},
        {"prompt": [USER], "chosen": GOOD, "rejected": WORSE},
        {"chosen": [USER, GOOD], "rejected": [USER, WORSE]},
        {"chosen": f"{HUMAN} 4", "rejected": f"{HUMAN} 5"},
        {"prompt": HUMAN, "chosen": " 4".strip(), "rejected": "5"},
        {"prompt": "2 + 2?", "chosen": f"{HUMAN} 4", "rejected": f"{HUMAN} 5"},
        {
            "prompt": [{"from": "human", "value": "2 + 2?"}],
            "chosen": {"from": "gpt", "value": "4"},
            "rejected": {"from": "gpt", "value": "5"},
        },
        {"chosen": [{**USER, "tool_calls": None, "weight": 1}, GOOD], "rejected": [USER, {**WORSE, "images": []}]},
    ],
)
def test_forms_of_one_pair(values):
    assert read(values) == PAIR


def test_earlier_turns_and_system_messages_belong_to_the_prompt():
    turns = [SYSTEM, *EARLIER, USER]
    for values in (
        {"chosen": [*turns, GOOD], "rejected": [*turns, WORSE]},
        {"prompt": turns, "chosen": [GOOD], "rejected": [WORSE]},
        {"prompt": turns, "chosen": [*turns[1:], GOOD], "rejected": [WORSE]},
        {"prompt": turns[1:], "chosen": [*turns, GOOD], "rejected": [*turns, WORSE]},
        {"prompt": "2 + 2?", "chosen": [*turns, GOOD], "rejected": [*turns, WORSE]},
    ):
        assert read(values) == (turns, [GOOD], [WORSE])


def test_system_column_and_input_of_an_instruction():
    values = {"prompt": "Add.", "input": "2 and 2", "system": "Be brief.", "chosen": "4", "rejected": "5"}
    prompt, _, _ = read(values, system="system", input="input")
    assert prompt == [SYSTEM, said("user", "Add.\n2 and 2")]
    assert read({**values, "input": "", "system": None}, system="system", input="input")[0] == [said("user", "Add.")]


def test_turns_of_one_speaker_in_a_row_are_one_turn():
    start = "\n\nHuman: a\n\nAssistant: b"
    prompt, chosen, rejected = read({"chosen": f"{start}\n\nAssistant: c", "rejected": start})
    assert (prompt, chosen, rejected) == ([said("user", "a")], [said("assistant", "b\n\nc")], [said("assistant", "b")])


@pytest.mark.parametrize(
    "values, reason",
    [
        ({"chosen": "4", "rejected": "5"}, "no_prompt"),
        ({"chosen": [GOOD], "rejected": [WORSE]}, "no_prompt"),
        ({"chosen": [USER], "rejected": [USER]}, "no_assistant_turn"),
        ({"chosen": [*EARLIER, USER, GOOD], "rejected": [USER, WORSE]}, "differs_before_last_turn"),
        ({"chosen": [USER, WORSE, USER, GOOD], "rejected": [USER, GOOD, USER, GOOD]}, "differs_before_last_turn"),
        ({"chosen": f"{HUMAN} 3\n\nHuman: no\n\nAssistant: 4", "rejected": f"{HUMAN} 5"}, "differs_before_last_turn"),
        ({"chosen": f"{HUMAN}", "rejected": f"{HUMAN} 5"}, "empty_text"),
        ({"prompt": "3 + 3?", "chosen": [USER, GOOD], "rejected": [USER, WORSE]}, "prompt_differs"),
        ({"prompt": [GOOD], "chosen": [GOOD], "rejected": [WORSE]}, "no_user_turn"),
        ({"chosen": [GOOD, GOOD], "rejected": [GOOD, WORSE]}, "no_user_turn"),
        ({"prompt": [], "chosen": "a", "rejected": "b"}, "empty_text"),
        ({"prompt": ["a"], "chosen": "a", "rejected": "b"}, "not_messages"),
        ({"prompt": [{"role": "user"}], "chosen": "a", "rejected": "b"}, "not_messages"),
        ({"prompt": [{"role": 3, "content": "a"}], "chosen": "a", "rejected": "b"}, "not_messages"),
        ({"prompt": [said("user", None)], "chosen": "a", "rejected": "b"}, "null_value"),
        ({"prompt": [said("user", [{"type": "text"}])], "chosen": "a", "rejected": "b"}, "not_text"),
        ({"prompt": [said("tool", "a"), USER], "chosen": "a", "rejected": "b"}, "unknown_role"),
        ({"prompt": [USER, SYSTEM, USER], "chosen": "a", "rejected": "b"}, "late_system_turn"),
        ({"chosen": [USER, {**GOOD, "tool_calls": [1]}], "rejected": [USER, WORSE]}, "more_than_text"),
    ],
)
def test_rows_that_are_no_pair(values, reason):
    with pytest.raises(BadValue) as caught:
        read(values)
    assert caught.value.reason == reason


def test_one_response_as_text_or_message():
    assert read_answer("4", "r") == read_answer([GOOD], "r") == read_answer(GOOD, "r") == read_answer(["4"], "r")
    assert read_answer("4", "r") == ([], "4")
    assert read_answer([USER, GOOD], "r") == read_answer(f"{HUMAN} 4", "r") == ([USER], "4")
    with pytest.raises(BadValue, match="no_assistant_turn"):
        read_answer([GOOD, USER], "r")


word = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1).filter(lambda w: w.strip())
plain = word.filter(lambda w: "Human:" not in w and "Assistant:" not in w).map(str.strip)


@given(st.lists(plain, min_size=1, max_size=7).filter(lambda turns: len(turns) % 2), plain, plain)
def test_a_dialogue_reads_the_same_as_text_and_as_messages(turns, first, second):
    prompt = [said("assistant" if number % 2 else "user", turn) for number, turn in enumerate(turns)]
    names = {"user": "Human", "assistant": "Assistant"}

    def as_text(messages):
        return "".join(f"\n\n{names[message['role']]}: {message['content']}" for message in messages)

    chosen, rejected = [said("assistant", first)], [said("assistant", second)]
    as_messages = read({"chosen": prompt + chosen, "rejected": prompt + rejected})
    as_dialogue = read({"chosen": as_text(prompt + chosen), "rejected": as_text(prompt + rejected)})
    assert as_messages == as_dialogue == (prompt, chosen, rejected)


junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["user", "assistant"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "from", "value"]), inner)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["prompt", "chosen", "rejected"]), junk))
def test_whatever_a_row_holds_it_is_a_pair_or_a_bad_value(values):
    try:
        prompt, chosen, rejected = read_pair(values, {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"})
    except BadValue:
        return
    assert prompt[-1]["role"] == "user" and [m["role"] for m in (*chosen, *rejected)] == ["assistant"] * 2
