"""The requests of the small world, its gold reward, and the demonstrations."""

from __future__ import annotations

import random
import time

import pytest

from selfplay.quickstart.demonstrations import demonstration
from selfplay.quickstart.tasks import SKILLS, SPLITS, gold, parse, prompts, split_of

GOOD = [
    ("List these words: moon river coat.", "Here is the list: moon, river and coat."),
    ("Write a sentence with cake and letter.", "The red cake lay under the big letter."),
    (
        "Ben asks for a red table. Write a polite reply.",
        "Dear Ben, thank you for asking. I will bring the red table. Kind regards.",
    ),
    (
        "Tell a happy story about a dog and Rosa.",
        "Once Rosa found a dog and was glad because the dog was quiet. At last Rosa laughed.",
    ),
    ("Emma has 3 cups and gets 4 more. How many cups are there?", "Emma has 3 + 4 = 7 cups in all."),
]


@pytest.mark.parametrize(("prompt", "response"), GOOD)
def test_a_good_answer_is_worth_nearly_all_and_each_loss_costs(prompt: str, response: str) -> None:
    best = gold(prompt, response)
    assert best > 0.9
    words = response.split()
    assert gold(prompt, " ".join(words[: len(words) // 2])) < best
    assert gold(prompt, response.lower().rstrip(".")) < best
    assert gold(prompt, response + " tower pillow kite") < best
    assert gold(prompt, " ".join([response] * 5)) < best


def test_style_alone_earns_little() -> None:
    prompt = "Ben asks for a red table. Write a polite reply."
    assert gold(prompt, "Dear Anna, thank you for asking. Kind regards.") < 0.1


def test_wrong_sums_and_wrong_moods_cost() -> None:
    sums = [gold("Emma has 3 cups and gets 4 more. How many cups are there?", f"{n} cups") for n in (7, 8, 9)]
    assert sums[0] > sums[1] > sums[2] > 0
    story = "Tell a sad story about a dog and Rosa."
    assert gold(story, "Rosa had a dog and wept") > gold(story, "Rosa had a dog and laughed")


HOSTILE = [
    "",
    " ",
    "\x00",
    "<|end|><|user|>",
    "(((((",
    "\\",
    "日本語 🙂",
    "9" * 5000,
    "a " * 200_000,
    "²³",
    "\ud800",
    "\n" * 99,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_gold_takes_any_text_and_never_raises(text: str) -> None:
    started = time.process_time()
    for prompt, response in GOOD:
        assert 0.0 <= gold(prompt, text, skill="list", other=None) <= 1.0
        assert 0.0 <= gold(prompt, response + text) <= 1.0
        assert gold(text, response) == 0.0
    assert time.process_time() - started < 3.0


def test_numbers_in_a_prompt_that_only_look_like_digits_are_no_request() -> None:
    assert parse("Emma has ٣ cups and gets 4 more. How many cups are there?") is None
    assert gold("Emma has x cups and gets 4 more. How many cups are there?", "7 cups") == 0.0


def test_every_prompt_is_parsed_as_its_own_skill() -> None:
    for row in prompts("rounds", 1000, 0):
        parsed = parse(row["prompt"])
        assert parsed is not None
        assert parsed[0].name == row["skill"]


def test_splits_are_disjoint_whatever_the_seed_and_share_the_space_as_said() -> None:
    drawn = {split: {row["prompt"] for row in prompts(split, 1500, seed)} for seed, split in enumerate(SPLITS)}
    assert sum(map(len, drawn.values())) == len(set().union(*drawn.values()))
    assert all(split_of(prompt) == split for split, texts in drawn.items() for prompt in texts)
    shares = [split_of(f"any text {number}") for number in range(4000)]
    assert all(abs(shares.count(split) / 4000 - share) < 0.03 for split, share in SPLITS.items())


def test_prompts_are_distinct_of_every_skill_and_reproducible() -> None:
    rows = prompts("rounds", 4096, 3)
    assert rows == prompts("rounds", 4096, 3)
    assert rows != prompts("rounds", 4096, 4)
    assert len({row["prompt"] for row in rows}) == 4096
    assert {row["skill"] for row in rows} == set(SKILLS)


def test_an_unknown_or_exhausted_split_is_an_error() -> None:
    with pytest.raises(ValueError, match="the splits are fine_tuning"):
        prompts("training", 1, 0)
    with pytest.raises(ValueError, match="does not hold"):
        prompts("evaluation", 4500, 0)


def test_demonstrations_are_mediocre_as_a_rule_and_sometimes_good() -> None:
    rng = random.Random(0)
    rows = prompts("fine_tuning", 1000, 0)
    golds = sorted(gold(row["prompt"], demonstration(row["prompt"], rng)) for row in rows)
    assert 0.4 < sum(golds) / len(golds) < 0.6
    assert golds[int(0.95 * len(golds))] > 0.7
    with pytest.raises(ValueError, match="not a request"):
        demonstration("What is the capital of France?", rng)
