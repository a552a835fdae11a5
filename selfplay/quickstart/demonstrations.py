"""Noisy demonstrations: the answers that the small world's first policy is fine-tuned on.

What they leave to be found decides what the loop can do. Corrupted copies of good answers give a policy whose
likeliest answer is already good, and rounds of training then only make it surer. So here the *usual* answer is
mediocre: its content is mostly right, while greeting, thanks, connecting words, describing words, the right
mood and the right length are mostly missing. Each of them is there now and then, so a best of several samples
has something to find.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from selfplay.quickstart import vocabulary as w
from selfplay.quickstart.tasks import Fields, parse

CARE_SHARE = 0.3
"""Share of demonstrations written with care."""

STYLE_CHANCE = {False: 0.15, True: 0.5}
"""Chance that one element of style is there, in a careless and in a careful demonstration."""

SLIP_CHANCE = 0.06
"""Chance that one piece of content is wrong or missing."""


@dataclass(slots=True)
class _Writer:
    """One demonstration in the making: how careful its author is, and the dice."""

    rng: random.Random
    careful: bool

    def style(self, text: str) -> str:
        """`text` if the author bothers with this element, else nothing."""
        return text if self.rng.random() < STYLE_CHANCE[self.careful] else ""

    def any_of(self, choices: Sequence[str]) -> str:
        return self.rng.choice(choices)

    def slips(self) -> bool:
        return self.rng.random() < SLIP_CHANCE


def _list(fields: Fields, at: _Writer) -> str:
    things = fields["words"].split()
    if at.slips():
        things.pop(at.rng.randrange(len(things)))
    if at.slips():
        at.rng.shuffle(things)
    opening = at.style(at.any_of(w.LIST_OPENINGS).capitalize() + ": ")
    comma = at.style(",")
    last = at.style("and ")
    return opening + f"{comma} ".join(things[:-1]) + (" " if last else f"{comma} ") + last + things[-1] + at.style(".")


def _sentence(fields: Fields, at: _Writer) -> str:
    first, second = fields["first"], fields["second"]
    if at.slips():
        second = at.any_of(w.THINGS)
    described = [at.style(at.any_of(w.ADJECTIVES) + " ") + thing for thing in (first, second)]
    place = at.style(at.any_of(w.PLACES) + " the")
    if place:
        middle = f"{at.any_of(w.VERBS)} {place}"
    else:
        middle = at.any_of(("and the", "is a", "was a", "and a"))
    return f"{at.any_of(('The', 'the'))} {described[0]} {middle} {described[1]}" + at.style(".")


def _reply(fields: Fields, at: _Writer) -> str:
    item = at.any_of(w.THINGS) if at.slips() else fields["item"]
    if at.rng.random() < 0.7:
        item = f"{fields['look']} {item}"
    name = at.any_of(w.NAMES) if at.slips() else fields["name"]
    greeting = at.style(f"{at.any_of(w.GREETINGS).capitalize()} {name}, ")
    thanks = at.style(at.any_of(("thank you for asking. ", "thanks for the note. ")))
    if not greeting:
        thanks = thanks.capitalize()
    answer = at.any_of(
        (f"Here is the {item}", f"I will bring the {item}", f"You can have the {item}", f"No {item} now")
    )
    named = "" if greeting else at.any_of(("", f", {name}"))
    closing = at.style(f". {at.any_of(w.CLOSINGS).capitalize()}")
    return greeting + thanks + answer + named + closing + at.style(".")


def _story(fields: Fields, at: _Writer) -> str:
    name, thing = fields["name"], fields["thing"]
    if at.slips():
        thing = at.any_of(w.THINGS)
    mood = fields["mood"] if at.rng.random() < (0.85 if at.careful else 0.65) else at.any_of(sorted(w.MOODS))
    opening = at.style(at.any_of(w.OPENINGS).capitalize() + " ")
    start = f"{opening}{name} {at.any_of(('had', 'saw', 'found'))} a {thing}"
    feeling = at.style(f" and {at.any_of(_feelings(mood))}") or at.any_of(("", f" and {at.any_of(_feelings(mood))}"))
    connector = at.style(f" {at.any_of(w.CONNECTORS)} the {thing} was {at.any_of(w.ADJECTIVES)}")
    ending = at.style(f". {at.any_of(w.ENDINGS).capitalize()} {name} {at.any_of(_feelings(mood))}")
    return start + feeling + connector + ending + at.style(".")


def _feelings(mood: str) -> tuple[str, ...]:
    if mood == "happy":
        return ("was glad", "smiled", "laughed", "was full of joy", "cheered")
    return ("cried", "was in tears", "wept", "was lonely", "was sorry")


def _count(fields: Fields, at: _Writer) -> str:
    total = int(fields["had"]) + int(fields["more"])
    if at.slips():
        total += at.rng.choice((-1, 1, 2))
    worked = at.style(f"{fields['had']} + {fields['more']} = ")
    subject = at.style(f"{fields['name']} has ")
    thing = at.any_of((f" {fields['thing']}s", f" {fields['thing']}s", ""))
    return subject + worked + str(total) + thing + at.style(" " + at.any_of(w.TOTALS)) + at.style(".")


_WRITERS = {"list": _list, "sentence": _sentence, "reply": _reply, "story": _story, "count": _count}


def demonstration(prompt: str, rng: random.Random) -> str:
    """One noisy answer to a request of this world. Raises ValueError for any other text."""
    parsed = parse(prompt)
    if parsed is None:
        raise ValueError(f"not a request of the small world: {prompt[:80]!r}")
    skill, fields = parsed
    return _WRITERS[skill.name](fields, _Writer(rng, rng.random() < CARE_SHARE))
