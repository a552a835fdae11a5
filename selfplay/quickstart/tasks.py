"""The requests of the small world: five skills, and the gold reward that judges the answers.

`selfplay quickstart` makes its own world to run the loop in. This file is the outside of that world: it draws
prompts, splits them into disjoint parts, and judges responses by rules (`gold`), which is what makes the effect
of the loop measurable. The answers that the first policy learns from are in `demonstrations.py`. Pure Python:
nothing here imports torch, ray or vllm.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from selfplay.quickstart import vocabulary as w

SPLITS = {"fine_tuning": 0.4, "reward_model": 0.2, "rounds": 0.3, "evaluation": 0.1}
"""Share of the prompt space that each split owns. A prompt's split is a property of its text, so no two can
share one.
"""

MAX_JUDGED_CHARACTERS = 2000
"""Text beyond this is not read: a good answer has less than 200 characters, and the judge must not be slowed by
a hostile one.
"""

CORRECT_WEIGHT, STYLE_WEIGHT, LENGTH_WEIGHT = 0.4, 0.4, 0.2

Fields = dict[str, str]


@dataclass(frozen=True, slots=True)
class Skill:
    """One kind of request. `templates` hold `{field}` places; `draw` fills them; `correct` and `style` judge a
    response.

    `correct(fields, text)` and `style(fields, text)` return a number in [0, 1]; `length` is the range of words
    that is neither too short nor too long.
    """

    name: str
    templates: tuple[str, ...]
    draw: Callable[[random.Random], Fields]
    correct: Callable[[Fields, str], float]
    style: Callable[[Fields, str], float]
    length: tuple[int, int]


def _has(text: str, *choices: str) -> float:
    """1.0 when `text` holds one of `choices` as whole words, whatever their case, else 0.0."""
    pattern = "|".join(re.escape(choice) for choice in choices)
    return float(re.search(rf"(?<!\w)(?:{pattern})(?!\w)", text, re.IGNORECASE) is not None)


def _mean(*parts: float) -> float:
    return sum(parts) / len(parts)


def _finished(text: str) -> float:
    """1.0 for a capital letter or a digit first and a full stop last, half for one of the two."""
    return _mean(float(text[:1].isupper() or text[:1].isdigit()), float(text.endswith(".")))


def _strangers(fields: Fields, text: str) -> int:
    """How many names and things `text` mentions that the request did not."""
    asked = set(re.findall(r"[a-z]+", " ".join(fields.values()).lower()))
    said = set(re.findall(r"[a-z]+", text.lower()))
    return len((said & w.KNOWN) - asked - {word + "s" for word in asked})


def _draw_list(rng: random.Random) -> Fields:
    return {"words": " ".join(rng.sample(w.THINGS, rng.randint(3, 4)))}


def _correct_list(fields: Fields, text: str) -> float:
    """The share of the words that are there once and in the asked order."""
    wanted = fields["words"].split()
    found = [word for word in re.findall(r"[a-z]+", text.lower()) if word in set(wanted)]
    in_order = 0
    for word in found:
        if in_order < len(wanted) and word == wanted[in_order]:
            in_order += 1
    once = sum(found.count(word) == 1 for word in wanted)
    return _mean(in_order, once) / len(wanted)


def _style_list(fields: Fields, text: str) -> float:
    gaps = max(len(fields["words"].split()) - 2, 1)
    commas = min(text.count(",") / gaps, 1.0)
    return _mean(commas, _has(text, "and"), _has(text, *w.LIST_OPENINGS), _finished(text))


def _draw_sentence(rng: random.Random) -> Fields:
    first, second = rng.sample(w.THINGS, 2)
    return {"first": first, "second": second}


def _correct_sentence(fields: Fields, text: str) -> float:
    return 0.4 * _has(text, fields["first"]) + 0.4 * _has(text, fields["second"]) + 0.2 * _has(text, *w.VERBS)


def _style_sentence(fields: Fields, text: str) -> float:
    described = [
        _has(text, *(f"{adjective} {fields[key]}" for adjective in w.ADJECTIVES)) for key in ("first", "second")
    ]
    return _mean(*described, _has(text, *w.PLACES), _finished(text))


def _draw_reply(rng: random.Random) -> Fields:
    return {"name": rng.choice(w.NAMES), "look": rng.choice(w.ADJECTIVES), "item": rng.choice(w.THINGS)}


def _correct_reply(fields: Fields, text: str) -> float:
    item = 0.3 * _has(text, fields["item"]) + 0.1 * _has(text, f"{fields['look']} {fields['item']}")
    return 0.3 * _has(text, fields["name"]) + item + 0.3 * _has(text, *w.GIVING)


def _style_reply(fields: Fields, text: str) -> float:
    greeted = _has(text, *(f"{greeting} {fields['name']}" for greeting in w.GREETINGS))
    return _mean(greeted, _has(text, *w.THANKS), _has(text, *w.CLOSINGS), _finished(text))


def _draw_story(rng: random.Random) -> Fields:
    return {"mood": rng.choice(sorted(w.MOODS)), "thing": rng.choice(w.THINGS), "name": rng.choice(w.NAMES)}


def _correct_story(fields: Fields, text: str) -> float:
    right = _has(text, *w.MOODS[fields["mood"]])
    wrong = max(_has(text, *words) for mood, words in w.MOODS.items() if mood != fields["mood"])
    mood = right * (1.0 - 0.75 * wrong)
    return 0.3 * _has(text, fields["name"]) + 0.3 * _has(text, fields["thing"]) + 0.4 * mood


def _style_story(fields: Fields, text: str) -> float:
    del fields
    return _mean(_has(text, *w.OPENINGS), _has(text, *w.CONNECTORS), _has(text, *w.ENDINGS), _finished(text))


def _draw_count(rng: random.Random) -> Fields:
    name, thing = rng.choice(w.NAMES), rng.choice(w.THINGS)
    return {"name": name, "thing": thing, "had": str(rng.randint(1, 5)), "more": str(rng.randint(1, 5))}


def _correct_count(fields: Fields, text: str) -> float:
    """Mostly the last number: right, or near (1 away gets half, 2 away a third)."""
    numbers = re.findall(r"[0-9]{1,6}", text)
    total = int(fields["had"]) + int(fields["more"])
    near = 1.0 / (1 + abs(int(numbers[-1]) - total)) if numbers else 0.0
    return 0.7 * near + 0.3 * _has(text, fields["thing"], fields["thing"] + "s")


def _style_count(fields: Fields, text: str) -> float:
    worked = float(f"{fields['had']} + {fields['more']} =" in text)
    return _mean(worked, _has(text, f"{fields['name']} has"), _has(text, *w.TOTALS), _finished(text))


SKILLS: dict[str, Skill] = {
    skill.name: skill
    for skill in (
        Skill(
            "list",
            ("List these words: {words}.", "Write a list of {words}.", "Put these in a list: {words}."),
            _draw_list, _correct_list, _style_list, (7, 10),
        ),
        Skill(
            "sentence",
            (
                "Write a sentence with {first} and {second}.",
                "Use {first} and {second} in a sentence.",
                "Say something of a {first} and a {second}.",
            ),
            _draw_sentence, _correct_sentence, _style_sentence, (8, 13),
        ),
        Skill(
            "reply",
            (
                "Reply politely to {name}, who asks for a {look} {item}.",
                "{name} asks for a {look} {item}. Write a polite reply.",
            ),
            _draw_reply, _correct_reply, _style_reply, (11, 18),
        ),
        Skill(
            "story",
            (
                "Tell a {mood} story about a {thing} and {name}.",
                "Write a {mood} story of {name} and a {thing}.",
                "{name} saw a {thing}. Tell a {mood} story of it.",
            ),
            _draw_story, _correct_story, _style_story, (14, 22),
        ),
        Skill(
            "count",
            (
                "{name} has {had} {thing}s and gets {more} more. How many {thing}s are there?",
                "How many {thing}s has {name} with {had} and {more} more?",
            ),
            _draw_count, _correct_count, _style_count, (8, 12),
        ),
    )
}  # fmt: skip


def _matcher(template: str) -> re.Pattern[str]:
    """`template` as a pattern: each `{field}` becomes a group of lower-case words, a name or a number; a field
    that comes twice must hold the same text both times.
    """
    seen: set[str] = set()
    pattern = ""
    for piece in re.split(r"(\{\w+\})", template):
        if not piece.startswith("{"):
            pattern += re.escape(piece)
        elif piece[1:-1] in seen:
            pattern += f"(?P={piece[1:-1]})"
        else:
            seen.add(piece[1:-1])
            pattern += rf"(?P<{piece[1:-1]}>[A-Za-z0-9]+" + (r"(?: [a-z]+)*)" if piece == "{words}" else ")")
    return re.compile(pattern)


_MATCHERS = [(skill, _matcher(template)) for skill in SKILLS.values() for template in skill.templates]


def parse(prompt: str) -> tuple[Skill, Fields] | None:
    """The skill and fields of a request of this world, or None for any other text."""
    if len(prompt) > MAX_JUDGED_CHARACTERS:
        return None
    for skill, matcher in _MATCHERS:
        match = matcher.fullmatch(prompt.strip())
        if match is None:
            continue
        fields = match.groupdict()
        numbers_ok = all(fields[key].isascii() and fields[key].isdigit() for key in ("had", "more") if key in fields)
        if numbers_ok and fields.get("mood", "happy") in w.MOODS:
            return skill, fields
    return None


def _length(num_words: int, wanted: tuple[int, int]) -> float:
    """1.0 inside the wanted range, falling in a straight line to 0.0 at half the lower and twice the upper
    end.
    """
    low, high = wanted
    if num_words < low:
        return max(0.0, (num_words - low / 2) / (low / 2))
    return max(0.0, 1.0 - max(0, num_words - high) / high)


def gold(prompt: str, response: str, **columns: Any) -> float:
    """How good `response` is as an answer to `prompt`, in [0, 1]: `correct * (0.4 + 0.4 style + 0.2 length)`.

    Correctness is a factor, so that style alone earns nothing. A name or thing that was not asked about costs a
    quarter of it. Any text is judged and none raises; a prompt that this world did not make gets 0.0. `columns`
    (the prompt's other columns, such as its skill) are not used: the prompt carries all that is needed.
    """
    del columns
    parsed = parse(prompt)
    text = response[: MAX_JUDGED_CHARACTERS + 1].strip()
    if parsed is None or not text or len(text) > MAX_JUDGED_CHARACTERS:
        return 0.0
    skill, fields = parsed
    correct = skill.correct(fields, text) * 0.75 ** _strangers(fields, text)
    length = _length(len(re.findall(r"\w+", text)), skill.length)
    return correct * (CORRECT_WEIGHT + STYLE_WEIGHT * skill.style(fields, text) + LENGTH_WEIGHT * length)


def split_of(prompt: str) -> str:
    """The split that owns this prompt: a function of its text alone."""
    position = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "big") / 2**64
    bound = 0.0
    for split, share in SPLITS.items():
        bound += share
        if position < bound:
            return split
    return "evaluation"


def prompts(split: str, num: int, seed: int) -> list[dict[str, str]]:
    """`num` distinct prompts of one split, as rows with `prompt` and `skill`; the skills take turns.

    Raises ValueError for an unknown split, and when the split does not hold that many prompts.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}: the splits are {', '.join(SPLITS)}")
    rng = random.Random(f"{seed}/{split}")
    skills = list(SKILLS.values())
    rows: dict[str, dict[str, str]] = {}
    draws = 0
    while len(rows) < num:
        skill = skills[len(rows) % len(skills)]
        prompt = rng.choice(skill.templates).format(**skill.draw(rng))
        if split_of(prompt) == split:
            rows.setdefault(prompt, {"prompt": prompt, "skill": skill.name})
        draws += 1
        if draws > 1000 + 60 * num:
            raise ValueError(f"the split {split!r} does not hold {num} distinct prompts (found {len(rows)})")
    return list(rows.values())
