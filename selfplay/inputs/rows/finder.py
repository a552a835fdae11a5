"""The columns of a source, and the roles that are found for them one by one."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from selfplay.core.errors import DataError
from selfplay.inputs.rows.names import plain
from selfplay.inputs.rows.roles import CHOICES, DIALOGUES, FIELDS, LABELS, ROLES, SIDED, SIDES
from selfplay.inputs.rows.survey import Survey


class Finder:
    """The columns and fields of a source, and the roles found so far: `names` (our name -> theirs) and `notes`. `named` are those
    that the user gave, `given` those of them that have a column."""

    def __init__(self, source: str, survey: Survey, named: Mapping[str, str]) -> None:
        self.source = source
        self.survey = survey
        self.named = named
        self.given = {ours: theirs for ours, theirs in named.items() if theirs}
        # a spelling without case and punctuation -> the columns that are spelled so; fields only where no column is
        self.plain: dict[str, list[str]] = {}
        for name in survey.columns:
            self.plain.setdefault(plain(name), []).append(name)
        for name in survey.fields:
            self.plain.setdefault(plain(name), [name])
        self.names: dict[str, str] = {}
        self.notes: list[str] = []

    def candidates(self, ours: str, without: Collection[str] = (), *, later: bool = True) -> list[str]:
        """The columns that could be one of ours: the user's, our own name, the recognised ones or, where there are none of these
        and with `later`, the later aliases of a kind that fits."""
        if ours in self.named:
            return [self.given[ours]] if ours in self.given else []
        role = ROLES.get(ours)
        if ours in self.survey.columns and (role is None or ours not in role.later):
            return [ours]
        aliases = (ours,) if role is None else role.aliases
        found = [name for name in self._spelled(aliases) if name not in without and self._fits(ours, name)]
        if found or role is None or not later:
            return found
        kinds = (None, *role.later_kinds) if ours == "prompt" else role.later_kinds
        later_ones = [name for name in self._spelled(role.later) if name not in without and self._fits(ours, name)]
        return [name for name in later_ones if self.survey.kind(name) in kinds]

    def _spelled(self, aliases: Sequence[str]) -> list[str]:
        return list(dict.fromkeys(name for alias in aliases for name in self.plain.get(alias, ())))

    def _fits(self, ours: str, name: str) -> bool:
        """Whether a column is what its name says: a conversation that holds its answer is no prompt, and one of turns that are
        objects is no list of responses."""
        kind = self.survey.kind(name)
        if ours == "prompt":
            if plain(name) == "messages":
                return kind == "messages"
            return (
                kind not in ("dialogue", "dialogues", "answer", "answers", "objects", "object") or plain(name) == ours
            )
        return not (ours == "responses" and kind == "objects" and plain(name) in DIALOGUES)

    def take(self, ours: str, without: Collection[str] = (), *, later: bool = True) -> bool:
        """Take the one column that can be `ours`. Raises DataError where there are several."""
        found = self.candidates(ours, without, later=later)
        if len(found) > 1:
            raise DataError(
                f"{self.source}: {ours} can be read from {' or from '.join(found)}",
                f"Choose: --columns {ours}={found[0]} (or another of them; {ours}= for none)",
            )
        if found:
            self.names[ours] = found[0]
        return bool(found)

    # ------------------------------------------------------------------------------------------- numbers of two sides

    def sides(
        self, stem: str, sides: tuple[str, str] = SIDES, labels: tuple[str, str] = SIDES
    ) -> tuple[str, str] | None:
        """The two columns of one number of a pair, None where there are none. `sides` are ours, `labels` those in the names of
        the columns. Raises DataError where there are several."""
        ours = [f"{stem}_{side}" for side in sides]
        if ours[0] in self.named or ours[1] in self.named:
            found = [self.candidates(name) for name in ours]
            if found[0] and found[1]:
                return found[0][0], found[1][0]
            if found[0] or found[1]:
                there, lacking = ours if found[0] else ours[::-1]
                raise DataError(
                    f"{there} is given as a column, {lacking} is not",
                    f"Give {lacking} too: --columns {lacking}=COLUMN.",
                )
            return None
        if set(ours) <= set(self.survey.columns):
            return ours[0], ours[1]
        options = []
        for template in SIDED[stem].aliases:
            of_sides = [self.plain.get(template.format(label), []) for label in labels]
            options += [(first, second) for first in of_sides[0] for second in of_sides[1] if _alike(first, second)]
        if len(options) > 1:
            names = [" and ".join(option) for option in options]
            raise DataError(
                f"{self.source}: {stem} can be read from {' or from '.join(names)}",
                f"Choose: --columns {ours[0]}={options[0][0]},{ours[1]}={options[0][1]}",
            )
        return options[0] if options else None

    def note_half(self, stem: str) -> None:
        """Note a number that only one side has."""
        for template in SIDED[stem].aliases:
            of_sides = {side: self.plain.get(template.format(side), []) for side in SIDES}
            for side, other in (SIDES, SIDES[::-1]):
                if of_sides[side] and not of_sides[other] and f"{stem}_{side}" not in self.named:
                    self.notes.append(f"{of_sides[side][0]!r} has no counterpart for {other}: not used as {stem}")

    def note_ranks(self, ours: str) -> None:
        """Note that ranks are read as rewards."""
        self.notes.append(f"{self.names[ours]!r} has ranks: the reward is minus the rank, so that 1 is the best")

    # -------------------------------------------------------------------------------------------------------- choices

    def choice(self) -> tuple[str, str, tuple[str, str]] | None:
        """The columns of two responses of which one is better, and their labels; None where there are none. Raises DataError
        where there are several."""
        if "response_a" in self.given and "response_b" in self.given:
            first, second = self.given["response_a"], self.given["response_b"]
            return first, second, _labels(first, second)
        options = [
            (form, first, second, labels)
            for form in CHOICES
            for labels in LABELS
            for first in self.plain.get(form.format(labels[0]), [])
            for second in self.plain.get(form.format(labels[1]), [])
        ]
        if len(options) > 1:
            said = " or ".join(f"{first} and {second}" for _, first, second, _ in options)
            raise DataError(
                f"{self.source}: the two responses of a pair can be {said}",
                f"Choose: --columns response_a={options[0][1]},response_b={options[0][2]}",
            )
        if not options:
            return None
        form, first, second, labels = options[0]
        if third := self.plain.get(form.format(chr(ord(labels[1]) + 1))):
            raise DataError(
                f"{self.source} has more than two responses for each prompt: {first}, {second}, {third[0]}",
                f"Write them into one column as a list (--columns responses=COLUMN), or choose two: --columns response_a={first},"
                f"response_b={second}",
            )
        return first, second, labels

    def take_choice(self) -> tuple[str, str]:
        """Take the two responses of a choice; returns their labels."""
        found = self.choice()
        assert found is not None
        self.names["response_a"], self.names["response_b"], labels = found
        return labels

    # --------------------------------------------------------------------------------------------- lists of objects

    def take_fields(self) -> None:
        """Where the responses are objects, take the field that is the text, and that of the reward or the rank. Raises DataError
        where no field is known as the text."""
        if {"rewards", "ranks"} <= self.names.keys():
            del self.names["rewards" if "ranks" in self.given and "rewards" not in self.given else "ranks"]
        root = self.names["responses"]
        inside = {name: plain(name[len(root) + 1 :]) for name in self.survey.fields if name.startswith(f"{root}.")}
        inside = {name: field for name, field in inside.items() if "." not in name[len(root) + 1 :]}
        if "responses" in self.given or not inside or {"role", "content"} <= {*inside.values()}:
            if "rewards" not in self.names and "ranks" in self.names:
                self.note_ranks("ranks")
            return
        texts = [name for name, field in inside.items() if field in FIELDS["text"]]
        if len(texts) != 1:
            raise DataError(
                f"{self.source}: the responses in {root!r} are objects with {', '.join(inside)}",
                f"Name the text: --columns responses={(texts or [*inside])[0]}, and the scores: rewards={root}.FIELD.",
            )
        self.names["responses"] = texts[0]
        for ours in ("rewards", "ranks"):
            found = [name for name, field in inside.items() if field in FIELDS[ours]]
            if ours in self.named or "rewards" in self.names or not found:
                continue
            if len(found) > 1:
                raise DataError(
                    f"{self.source}: {ours} can be read from {' or from '.join(found)}",
                    f"Choose: --columns responses={texts[0]},{ours}={found[0]}",
                )
            self.names[ours] = found[0]
        if "rewards" not in self.names and "ranks" in self.names:
            self.note_ranks("ranks")


def _alike(first: str, second: str) -> bool:
    """Whether two names are punctuated alike (`score-chosen` does not go with `score_rejected`)."""
    return re.sub(r"\w", "", first.replace("_", ".")) == re.sub(r"\w", "", second.replace("_", "."))


def _labels(first: str, second: str) -> tuple[str, str]:
    """What differs in the names of two columns. Example: ("response_0", "response_1") -> ("0", "1")."""
    words = [plain(name).split("_") for name in (first, second)]
    differing = [(one, other) for one, other in zip(*words, strict=False) if one != other]
    if len(words[0]) != len(words[1]) or len(differing) != 1:
        return plain(first), plain(second)
    one, other = differing[0]
    numbered = [re.fullmatch(r"(.*?)(\d+|[ab])", word) for word in (one, other)]
    if numbered[0] and numbered[1] and numbered[0][1] == numbered[1][1]:
        return numbered[0][2], numbered[1][2]
    return one, other
