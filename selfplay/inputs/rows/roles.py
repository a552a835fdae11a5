"""What a column can be: a table of roles, and the names that datasets give to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from selfplay.inputs.rows.survey import Kind

Shape = Literal["pairs", "choices", "numbers", "lists", "rows"]
"""Pairs with texts, two responses and which of them is better, pairs without texts, one row a prompt with lists of responses,
one row a response."""

PAIRS: tuple[Shape, ...] = ("pairs", "choices", "numbers")
_ALL: tuple[Shape, ...] = ("pairs", "choices", "numbers", "lists", "rows")
_TEXTS: tuple[Shape, ...] = ("pairs", "choices", "lists", "rows")
SIDES = ("chosen", "rejected")
LETTERS = ("a", "b")


@dataclass(frozen=True, slots=True)
class Role:
    """A role of columns: our name, the shapes of rows that have it, and the aliases that are recognised (lower case,
    with underscores). `kind`: what its values are. `later`: aliases that count where no other is there, and where the values are
    of one of the kinds given with them."""

    name: str
    shapes: tuple[Shape, ...]
    aliases: tuple[str, ...] = ()
    kind: Literal["messages", "text", "list", "number", "id", "group", "embedding", "preference"] = "number"
    later: tuple[str, ...] = ()
    later_kinds: tuple[Kind, ...] = ()


@dataclass(frozen=True, slots=True)
class SidedRole:
    """A number that comes once for each response of a pair. Aliases are templates, and count only where the columns of
    both sides exist, so that both numbers of a pair are of one kind. The first alias is our own name."""

    name: str
    aliases: tuple[str, ...]


def _sided(name: str, words: Sequence[str], *more: str) -> SidedRole:
    return SidedRole(name, (*(form for word in words for form in (f"{word}_{{}}", f"{{}}_{word}")), *more))


SIDED = {
    role.name: role
    for role in (
        _sided(
            "reward",
            ("reward", "score", "rating", "avg_rating", "rm_score", "rm_reward", "reward_score"),
            "winner_model_{}",
        ),
        _sided(
            "policy_logp",
            ("policy_logp", "policy_logps", "logp", "logps"),
            "policy_{}_logp",
            "policy_{}_logps",
        ),
        _sided(
            "reference_logp",
            ("reference_logp", "reference_logps", "ref_logp", "ref_logps"),
            *(f"{word}_{{}}_{logp}" for word in ("reference", "ref") for logp in ("logp", "logps")),
        ),
        _sided(
            "policy_mean_logp",
            (
                "policy_mean_logp",
                "mean_logp",
                "mean_logps",
                "avg_logp",
                "avg_logps",
                "logp_norm",
                "logps_norm",
                "logp_norms",
            ),
        ),
        _sided("num_tokens", ("num_tokens", "n_tokens", "token_count"), "num_{}_tokens"),
    )
}
SIDED_NUMBERS = tuple(f"{stem}_{side}" for stem in SIDED for side in SIDES)
LETTERED_NUMBERS = tuple(f"{stem}_{letter}" for stem in SIDED for letter in LETTERS)

# The two responses of a choice, and what the columns of each call it: their order is that of the labels.
CHOICES = tuple(
    form
    for stem in ("response", "answer", "output", "completion", "conversation", "generation", "human_ref")
    for form in (f"{stem}_{{}}", f"{stem}{{}}")
)
LABELS = (("a", "b"), ("0", "1"), ("1", "2"))

# Numbers that come once for each pair. Of these, what comes once for each prompt may also stand beside its responses.
PAIR_NUMBERS = (
    "policy_logp_chosen_alone", "ask_llm_yes", "prompt_entropy", "prompt_reward_mean", "prompt_reward_std",
    "seed_implicit_margin", "validation_loss", "reward_fresh", "num_prompt_tokens",
)  # fmt: skip
PROMPT_NUMBERS = ("prompt_entropy", "reward_fresh")
RESPONSE_NUMBERS = ("policy_logp", "reference_logp", "num_tokens")
_LIST_NUMBERS = ("policy_logps", "reference_logps", "nums_tokens")

DIALOGUES = ("messages", "conversation", "conversations", "dialogue", "dialog")

ROLES = {
    role.name: role
    for role in (
        Role(
            "prompt",
            _TEXTS,
            ("prompt", "instruction", "question", "query", "conversations", "conversation"),
            "messages",
            later=("input", "input_messages", "question_full_text", "context", "problem", "history", "messages"),
            later_kinds=("text", "messages"),
        ),
        Role("input", _TEXTS, ("input",), "text"),
        Role("system", _TEXTS, ("system", "system_prompt", "system_message"), "text"),
        Role("history", _TEXTS, (), "list", later=("history",), later_kinds=("turns",)),
        Role(
            "chosen",
            ("pairs",),
            ("chosen", "chosen_response", "response_chosen", "chosen_answer", "chosen_messages", "preferred_output"),
            "messages",
            later=DIALOGUES,
            later_kinds=("dialogue",),
        ),
        Role(
            "rejected",
            ("pairs",),
            ("rejected", "reject", "rejected_response", "response_rejected", "rejected_answer", "rejected_messages",
             "non_preferred_output"),
            "messages",
        ),
        Role("response_a", ("choices",), (), "messages"),
        Role("response_b", ("choices",), (), "messages"),
        Role("preference", ("choices",), ("preference", "winner", "better_response_id", "choice"), "preference"),
        Role("preference_strength", ("choices",), ("preference_strength", "overall_preference")),
        Role(
            "responses",
            ("lists",),
            ("responses", "all_generated_responses", "generated_responses", "all_responses", "completions", "generations"),
            "list",
            later=("answers", "candidates", "outputs", "samples", *DIALOGUES, "dialogues"),
            later_kinds=("dialogues", "answers", "objects"),
        ),
        Role(
            "rewards",
            ("lists",),
            ("rewards", "all_rm_scores", "all_rewards", "all_scores", "rm_scores", "scores", "reward_scores", "ratings",
             "rating"),
            "list",
            later=("score", "reward", "rm_score"),
            later_kinds=("list",),
        ),
        Role("ranks", ("lists",), ("ranks", "rankings"), "list"),
        *(Role(name, ("lists",), (name,), "list") for name in _LIST_NUMBERS),
        Role(
            "response",
            ("rows",),
            ("response", "completion", "generation", "generated_text", "output"),
            "messages",
            later=DIALOGUES,
            later_kinds=("dialogue",),
        ),
        Role(
            "reward", ("rows",), ("reward", "score", "rm_score", "rating", "reward_score", "rm_reward", "overall_score"),
            later=("label",), later_kinds=("number", "text"),
        ),
        Role("rank", ("rows",), ("rank",)),
        *(Role(name, ("rows",), (name,)) for name in RESPONSE_NUMBERS),
        *(Role(name, ("pairs", "numbers")) for name in SIDED_NUMBERS),
        *(Role(name, ("choices",)) for name in LETTERED_NUMBERS),
        Role("explicit_margin", PAIRS, ("explicit_margin", "rm_margin", "reward_margin")),
        Role("implicit_margin", PAIRS),  # only where the user names it: a column of this name is of an earlier selection
        *(Role(name, _ALL if name in PROMPT_NUMBERS else PAIRS, (name,)) for name in PAIR_NUMBERS),
        Role("embedding", PAIRS, ("embedding",), "embedding"),
        Role("pair_id", PAIRS, ("pair_id",), "id"),
        Role("response_id", ("rows",), ("response_id",), "id"),
        Role("prompt_id", _TEXTS, ("prompt_id",), "id"),
        Role("group", _ALL, ("group",), "group"),
    )
}  # fmt: skip
# A column "id" is the id of what a row is.
ROW_ID: dict[Shape, str] = {
    "pairs": "pair_id", "choices": "pair_id", "numbers": "pair_id", "lists": "prompt_id", "rows": "response_id",
}  # fmt: skip

# What an earlier `select`, or a run, has computed: it is computed again here, so it is left out.
DERIVED = frozenset(
    ("explicit_margin", "implicit_margin", "dpo_implicit_margin", "alignment_potential", "metric_value", "rank", "kept",
     "drop_reason")
)  # fmt: skip

# The fields of an object in a list of responses: its text, and its reward or its rank.
FIELDS = {
    "text": (*ROLES["response"].aliases, "text", "answer", "content"),
    "rewards": ROLES["reward"].aliases,
    "ranks": ("rank",),
}
