"""Which column is what: recognised names, names given by the user, and what is refused."""

from pathlib import Path

import pytest

from selfplay.core.errors import DataError
from selfplay.inputs.rows.columns import prompt_columns, recognise
from selfplay.inputs.rows.roles import LETTERED_NUMBERS, ROLES, SIDED, SIDED_NUMBERS
from selfplay.inputs.rows.survey import Survey

TEXTS = ["prompt", "chosen", "rejected"]


def find(columns, named=None, wanted=(), prefer="pairs"):
    return recognise("a.jsonl", Survey(tuple(columns)), named=named or {}, wanted=wanted, prefer=prefer)


@pytest.mark.parametrize(
    "chosen, rejected, ours",
    [
        ("reward_chosen", "reward_rejected", "reward"),
        ("score_chosen", "score_rejected", "reward"),
        ("chosen_score", "rejected_score", "reward"),
        ("chosen-rating", "rejected-rating", "reward"),
        ("chosen_rating", "rejected_rating", "reward"),
        ("rating_chosen", "rating_rejected", "reward"),
        ("rm_score_chosen", "rm_score_rejected", "reward"),
        ("chosen_reward", "rejected_reward", "reward"),
        ("Score-Chosen", "Score-Rejected", "reward"),
        ("chosen_logps", "rejected_logps", "policy_logp"),
        ("policy_chosen_logps", "policy_rejected_logps", "policy_logp"),
        ("ref_chosen_logps", "ref_rejected_logps", "reference_logp"),
        ("reference_chosen_logps", "reference_rejected_logps", "reference_logp"),
        ("chosen_num_tokens", "rejected_num_tokens", "num_tokens"),
    ],
)
def test_recognised_names(chosen, rejected, ours):
    found = find([*TEXTS, rejected, chosen, "other"])
    assert found.names[f"{ours}_chosen"] == chosen and found.names[f"{ours}_rejected"] == rejected
    assert found.numbers == (f"{ours}_chosen", f"{ours}_rejected") and found.others == ("other",)


def test_our_own_name_comes_before_recognised_ones_and_the_users_before_all():
    columns = [*TEXTS, "reward_chosen", "reward_rejected", "score_chosen", "score_rejected"]
    assert find(columns).names["reward_chosen"] == "reward_chosen"
    assert find(columns).others == ("score_chosen", "score_rejected")
    named = {"reward_chosen": "score_chosen", "reward_rejected": "score_rejected"}
    assert find(columns, named).names["reward_chosen"] == "score_chosen"
    nothing = find(columns, {"reward_chosen": "", "reward_rejected": ""})
    assert nothing.numbers == () and len(nothing.others) == 4


def test_two_columns_that_could_be_one_are_refused():
    with pytest.raises(DataError) as caught:
        find([*TEXTS, "score_chosen", "score_rejected", "chosen-rating", "rejected-rating"])
    assert "score_chosen and score_rejected or from chosen-rating and rejected-rating" in caught.value.message
    assert "--columns reward_chosen=score_chosen,reward_rejected=score_rejected" in caught.value.hint
    with pytest.raises(DataError, match="prompt can be read from instruction or from question"):
        find(["instruction", "question", "chosen", "rejected"])
    with pytest.raises(DataError, match="chosen can be read from chosen_response or from response_chosen"):
        find(["prompt", "chosen_response", "response_chosen", "rejected"])


def test_half_of_a_pair_of_numbers_is_not_used_and_said():
    found = find([*TEXTS, "score_chosen", "rejected_rating"])
    assert found.numbers == () and len(found.notes) == 2
    assert "'score_chosen' has no counterpart for rejected" in found.notes[0]


@pytest.mark.parametrize("prompt", ["instruction", "question", "query", "input", "conversations"])
def test_names_of_the_prompt(prompt):
    assert find([prompt, "chosen", "rejected"]).names["prompt"] == prompt


def test_system_and_input_columns():
    found = find(["instruction", "input", "system", "chosen", "rejected"])
    assert (found.names["prompt"], found.names["input"], found.names["system"]) == ("instruction", "input", "system")
    assert find(["question", "input", "chosen", "rejected"]).names.get("input") is None
    assert "prompt" not in find(["chosen", "rejected", "messages"]).names


def test_shapes():
    numbers = ["reward_chosen", "reward_rejected"]
    armorm = [*TEXTS, "all_generated_responses", "all_rm_scores"]
    assert find(numbers).shape == "numbers"
    assert find(armorm).shape == "pairs"
    assert find(armorm, prefer="responses").shape == "lists"
    assert find(armorm, {"responses": "all_generated_responses"}).shape == "lists"
    assert find(["prompt", "all_generated_responses", "all_rm_scores"]).names["rewards"] == "all_rm_scores"
    assert find(["prompt", "response", "reward"]).shape == "rows"
    assert find(["question", "a", "b"], {"response": "a", "reward": "b"}).numbers == ("reward",)


@pytest.mark.parametrize(
    "columns, named, prefer, said",
    [
        ([*TEXTS, "a"], {"reward_chose": "a"}, "pairs", "Did you mean reward_chosen=a"),
        ([*TEXTS, "score"], {"reward_chosen": "scor", "reward_rejected": "a"}, "pairs", "reward_chosen=score"),
        ([*TEXTS, "a"], {"reward_chosen": "a"}, "pairs", "reward_rejected is not"),
        (
            [*TEXTS, "a"],
            {"reward_chosen": "a", "reward_rejected": "a"},
            "pairs",
            "as reward_chosen and as reward_rejected",
        ),
        (
            [*TEXTS, "logp_margin_norm"],
            {"explicit_margin": "logp_margin"},
            "pairs",
            "Set explicit_margin to one of these",
        ),
        ([*TEXTS, "score_rejected"], {"reward_chosen": "score_chosen"}, "pairs", "Set reward_chosen to one of these"),
        ([*TEXTS, "a"], {"rewards": "a"}, "pairs", "does nothing there"),
        (["prompt", "chosen"], {}, "pairs", "chosen without rejected"),
        (["a", "b"], {}, "pairs", "neither pairs nor responses"),
        (TEXTS, {}, "responses", "no responses to build pairs from"),
        (["reward_chosen", "reward_rejected", "a"], {"prompt": "a"}, "pairs", "does nothing there"),
    ],
)
def test_refusals(columns, named, prefer, said):
    with pytest.raises(DataError) as caught:
        find(columns, named, prefer=prefer)
    assert said in str(caught.value)


def test_what_select_works_out_is_left_out():
    found = find([*TEXTS, *SIDED_NUMBERS, "explicit_margin", "metric_value", "rank", "kept", "drop_reason", "source"])
    assert found.others == ("source",) and "explicit_margin" in found.notes[0]
    assert find([*TEXTS, "rank"]).others == ("rank",)


AUTHORS = [
    "rm_margin",
    "chosen_logps",
    "rejected_logps",
    "chosen_logps_norm",
    "rejected_logps_norm",
    "logp_margin_norm",
]


def test_the_authors_columns() -> None:
    found = find([*TEXTS, *AUTHORS], {"explicit_margin": "rm_margin"})
    assert found.names["policy_logp_chosen"] == "chosen_logps"
    assert found.names["policy_mean_logp_rejected"] == "rejected_logps_norm"
    generated = find([*TEXTS, "chosen_logp_norms", "rejected_logp_norms"])  # of their evolved prompts
    assert generated.names["policy_mean_logp_chosen"] == "chosen_logp_norms"
    named = find([*TEXTS, *AUTHORS], {"explicit_margin": "rm_margin", "implicit_margin": "logp_margin_norm"})
    assert named.numbers == ("explicit_margin", "implicit_margin")
    assert find([*TEXTS, "implicit_margin"]).numbers == ()  # an earlier selection's


def test_columns_that_may_belong_to_a_conversation() -> None:
    assert find(["system", "chosen", "rejected"]).names["system"] == "system"
    assert "'tools', 'Images': not used" in find([*TEXTS, "tools", "Images", "topic"]).notes[0]
    columns = ("instruction", "input", "system", "history")
    mapped = prompt_columns("a.jsonl", Survey(columns, kinds={"history": "turns"}), "instruction")
    assert mapped.names == {"prompt": "instruction", **{name: name for name in columns[1:]}}
    assert len(mapped.notes) == 3 and mapped.others == ("input", "system", "history")


def test_a_field_has_a_dotted_name_and_a_column_of_that_name_comes_first() -> None:
    fields = ("completions.text", "completions.score", "completions.tools")
    survey = Survey(("prompt", "completions"), fields, {"completions": "objects"})
    found = recognise("a.jsonl", survey, named={}, wanted=(), prefer="pairs")
    assert found.names["responses"] == "completions.text" and found.names["rewards"] == "completions.score"
    assert found.others == () and "'completions.tools': not used" in found.notes[0]
    named = {"responses": "completions.text", "rewards": "completions.scor"}
    with pytest.raises(DataError) as caught:
        recognise("a.jsonl", survey, named=named, wanted=(), prefer="pairs")
    assert "rewards=completions.score" in caught.value.hint
    unknown = Survey(("prompt", "completions"), ("completions.said", "completions.score"), {"completions": "objects"})
    with pytest.raises(DataError, match="objects with completions"):
        recognise("a.jsonl", unknown, named={}, wanted=(), prefer="pairs")


@pytest.mark.parametrize(
    "columns, named, labels",
    [
        (["response_0", "response_1"], {}, ("0", "1")),
        (["response1", "response2"], {}, ("1", "2")),
        (["human_ref_A", "human_ref_B"], {}, ("a", "b")),
        (["left text", "right text"], {"response_a": "left text", "response_b": "right text"}, ("left", "right")),
        (["one", "other"], {"response_a": "one", "response_b": "other"}, ("one", "other")),
    ],
)
def test_two_responses_and_their_labels(columns: list[str], named: dict[str, str], labels: tuple[str, str]) -> None:
    found = find(["prompt", *columns, "preference"], named)
    assert found.shape == "choices" and found.labels == labels
    assert [found.names[ours] for ours in ("response_a", "response_b")] == columns


def test_choices_that_are_refused() -> None:
    with pytest.raises(DataError, match="no column is recognised that names the better one"):
        find(["prompt", "response_a", "response_b"])
    with pytest.raises(DataError, match="can be response_0 and response_1 or response_1 and response_2"):
        find(["prompt", "response_0", "response_1", "response_2", "preference"])
    assert find([*TEXTS, "response_a", "response_b"]).shape == "pairs"


def test_the_docs_list_every_role_with_its_aliases() -> None:
    text = (Path(__file__).parents[3] / "docs" / "select.md").read_text()
    documented = {}
    for line in text[text.index("| role | shapes |") :].splitlines()[2:]:
        if not line.startswith("|"):
            break
        name, shapes, *aliases = (cell.strip() for cell in line.strip("|").split("|"))
        documented[name.strip("`")] = (shapes, *(cell.replace("`", "").split() for cell in aliases))
    expected = {
        name: (", ".join(role.shapes), [alias for alias in role.aliases if alias != name], list(role.later))
        for name, role in ROLES.items()
        if name not in (*SIDED_NUMBERS, *LETTERED_NUMBERS)
    }
    for name, sided in SIDED.items():
        expected[f"{name}_*"] = ("pairs, choices, numbers", [alias.format("*") for alias in sided.aliases[1:]], [])
    assert documented == expected
