"""The slow, obvious reference of pair building: prompt by prompt, pair by pair, with Python's own min, max and sorted."""

from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from selfplay.selection.hashing import random_bits
from selfplay.selection.pairing import Pairing, PairRules, build_pairs
from selfplay.selection.pairing.similarity import similarity
from selfplay.selection.responses import response_pool

BUILDERS = ("best_worst", "all", "random_pair", "best_random", "best_median", "sweet_spot", "minimum_gap")


@dataclass(frozen=True)
class Row:
    """One response."""

    prompt: str = "p"
    index: int = 0
    reward: float | None = 0.0
    text: str = "text"
    finish: str = "stop"
    drop: str | None = None
    tokens: int = 3


def rows_of(rewards: list[Any], texts: list[str] | None = None, tokens: list[int] | None = None) -> list[Row]:
    """Responses of one prompt, in order of their index."""
    texts = texts or [f"text {i}" for i in range(len(rewards))]
    tokens = tokens or [3] * len(rewards)
    return [Row(index=i, reward=rewards[i], text=texts[i], tokens=tokens[i]) for i in range(len(rewards))]


def build(rows: list[Row], seed: int = 0, **rules: Any) -> Pairing:
    pool = response_pool(
        prompt_ids=[row.prompt for row in rows],
        response_index=[row.index for row in rows],
        rewards=[row.reward for row in rows],
        texts=[row.text for row in rows],
        finish_reasons=[row.finish for row in rows],
        drop_reasons=[row.drop for row in rows],
        num_tokens=[row.tokens for row in rows],
    )
    return build_pairs(pool, PairRules(**rules), seed)


def outcome(rows: list[Row], seed: int = 0, **rules: Any):
    """Pairs as (chosen row, rejected row), and the reason of each row."""
    pairing = build(rows, seed, **rules)
    return pairs_of(pairing), pairing.reason_R.tolist()


def pairs_of(pairing: Pairing) -> list[tuple[int, int]]:
    return list(zip(pairing.chosen_P.tolist(), pairing.rejected_P.tolist(), strict=True))


def chance(row: Row, seed: int) -> int:
    return int(random_bits([f"{row.index} {row.prompt}"], seed)[0]) >> 1


def slow_candidates(rows: list[Row], reward: dict[int, float], usable: list[int], rules: PairRules, seed: int):
    """(chosen, rejected) by row of one prompt; `usable` by response index."""
    best = max(usable, key=lambda i: (reward[i], -rows[i].index))
    others = [i for i in usable if i != best]
    if rules.build == "best_worst":
        return [(best, min(usable, key=lambda i: (reward[i], rows[i].index)))]
    if rules.build == "best_random":
        return [(best, min(others, key=lambda i: chance(rows[i], seed)))]
    if rules.build == "random_pair":
        two = sorted(sorted(usable, key=lambda i: chance(rows[i], seed))[:2])
        return [ordered(rows, reward, *two)]
    if rules.build == "best_median":
        return [(best, sorted(usable, key=lambda i: (reward[i], -rows[i].index))[(len(usable) - 1) // 2])]
    if rules.build == "sweet_spot":
        values = [reward[i] for i in usable]
        target = statistics.fmean(values) - 2 * statistics.pstdev(values)
        return [(best, min(others, key=lambda i: (abs(reward[i] - target), rows[i].index)))]
    pairs = [ordered(rows, reward, *two) for two in itertools.combinations(usable, 2)]
    if rules.build == "all":
        return pairs
    far = [(c, r) for c, r in pairs if reward[c] - reward[r] > rules.min_gap]
    key = lambda pair: (reward[pair[0]] - reward[pair[1]], rows[pair[0]].index, rows[pair[1]].index)  # noqa: E731
    return [min(far, key=key)] if far else []


def ordered(rows: list[Row], reward: dict[int, float], one: int, two: int) -> tuple[int, int]:
    """The better one first; of equal ones the lower index."""
    one, two = sorted((one, two), key=lambda i: (-reward[i], rows[i].index))
    return one, two


FILTERS = [
    "identical_responses", "zero_margin", "margin_not_finite", "gap_too_small", "reward_chosen_too_low",
    "reward_rejected_too_high", "length_gap_too_large", "near_identical_responses", "over_max_per_prompt",
]  # fmt: skip


def slow_objection(rows: list[Row], reward: dict[int, float], c: int, r: int, rules: PairRules) -> str | None:
    if rows[c].text == rows[r].text:
        return "identical_responses"
    if reward[c] == reward[r]:
        return "zero_margin"
    if not math.isfinite(reward[c] - reward[r]):
        return "margin_not_finite"
    if rules.min_gap and reward[c] - reward[r] <= rules.min_gap:
        return "gap_too_small"
    if rules.min_reward_chosen is not None and reward[c] < rules.min_reward_chosen:
        return "reward_chosen_too_low"
    if rules.max_reward_rejected is not None and reward[r] > rules.max_reward_rejected:
        return "reward_rejected_too_high"
    if rules.max_length_gap is not None and abs(rows[c].tokens - rows[r].tokens) > rules.max_length_gap:
        return "length_gap_too_large"
    if similarity(rows[c].text, rows[r].text) > rules.max_similarity:
        return "near_identical_responses"
    return None


def slow_fault(row: Row, rules: PairRules) -> str | None:
    if row.drop:
        return row.drop
    if not row.text.strip():
        return "empty"
    if row.finish != "stop" and not rules.allow_truncated:
        return "truncated"
    if row.reward is None or not math.isfinite(row.reward):
        return "reward_not_finite"
    return None


def slow_build(rows: list[Row], rules: PairRules, seed: int):
    """Pairs (a set) and reasons, for a penalty that is a number."""
    assert not isinstance(rules.length_penalty, str)
    reasons = [slow_fault(row, rules) for row in rows]
    reward = {
        i: row.reward - rules.length_penalty * row.tokens
        for i, row in enumerate(rows)
        if reasons[i] is None and row.reward is not None
    }
    made: set[tuple[int, int]] = set()
    for prompt in {row.prompt for row in rows}:
        usable = sorted((i for i in reward if rows[i].prompt == prompt), key=lambda i: rows[i].index)
        everyone = slow_prompt(rows, reward, usable, rules)
        if everyone is not None:
            reasons = [everyone if i in usable else reason for i, reason in enumerate(reasons)]
            continue
        if not usable:
            continue
        pairs = slow_candidates(rows, reward, usable, rules, seed)
        said = {pair: slow_objection(rows, reward, *pair, rules) for pair in pairs}
        if rules.max_per_prompt is not None:
            passed = [pair for pair in pairs if said[pair] is None]
            passed.sort(key=lambda p: (-(reward[p[0]] - reward[p[1]]), rows[p[0]].index, rows[p[1]].index))
            said |= dict.fromkeys(passed[rules.max_per_prompt :], "over_max_per_prompt")
        made |= {pair for pair in pairs if said[pair] is None}
        for i in usable:
            mine = [said[pair] for pair in pairs if i in pair]
            if None in mine:
                continue
            not_in_one = "not_extreme" if rules.build == "best_worst" else "not_picked"
            reasons[i] = max(mine, key=FILTERS.index) if mine else not_in_one
    return made, reasons


def slow_prompt(rows: list[Row], reward: dict[int, float], usable: list[int], rules: PairRules) -> str | None:
    """What is wrong with all usable responses of a prompt."""
    if not usable:
        return None
    if len(usable) == 1:
        return "prompt_has_too_few_responses"
    if len({rows[i].text for i in usable}) == 1:
        return "identical_responses"
    spread = max(reward[i] for i in usable) - min(reward[i] for i in usable)
    if spread == 0:
        return "zero_margin"
    return "gap_too_small" if rules.min_gap and spread <= rules.min_gap else None


# Rewards are halves, so that every sum in a builder is exact and ties are many.
responses = st.builds(
    Row,
    prompt=st.sampled_from(["p", "q", "r"]),
    index=st.integers(0, 9),
    reward=st.one_of(st.none(), st.sampled_from([0.0, -0.0, 0.5, 1.0, 1.5, -2.0, 4.0, float("nan"), float("inf")])),
    text=st.sampled_from(["a b c", "a b c", "a b d", "another", "a quite different text", "", " "]),
    finish=st.sampled_from(["stop", "stop", "stop", "length"]),
    drop=st.sampled_from([None, None, None, None, "reward_failed"]),
    tokens=st.integers(1, 6),
)
tables = st.lists(responses, max_size=24, unique_by=lambda row: (row.prompt, row.index))


@st.composite
def all_rules(draw: Any) -> dict[str, Any]:
    """Any combination of rules that means something; the penalty a number."""
    build = draw(st.sampled_from(BUILDERS))
    return {
        "build": build,
        "max_per_prompt": draw(st.one_of(st.none(), st.integers(1, 4))) if build == "all" else None,
        "min_gap": draw(st.sampled_from([0.0, 0.0, 0.5, 1.25])),
        "max_similarity": draw(st.sampled_from([1.0, 1.0, 0.3])),
        "max_length_gap": draw(st.sampled_from([None, None, 1, 3])),
        "min_reward_chosen": draw(st.sampled_from([None, None, 1.0])),
        "max_reward_rejected": draw(st.sampled_from([None, None, 0.5])),
        "length_penalty": draw(st.sampled_from([0.0, 0.0, 0.25, -0.5])),
        "allow_truncated": draw(st.booleans()),
    }
