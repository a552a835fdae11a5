"""What the rows of a source are: by its columns, the names that the user gave, and what is preferred."""

from __future__ import annotations

from collections.abc import Mapping

from selfplay.core.errors import DataError
from selfplay.inputs.rows.finder import Finder
from selfplay.inputs.rows.roles import LETTERS, PAIRS, ROLES, SIDES, Shape


def find_shape(finder: Finder, prefer: str) -> Shape:
    """The shape of the rows. Raises DataError for columns that are neither pairs nor responses."""

    def gives(*shapes: Shape) -> bool:
        """Whether the user gave a name that only these shapes have."""
        return any(ours in ROLES and set(ROLES[ours].shapes) <= set(shapes) for ours in finder.given)

    found = {side: bool(finder.candidates(side, later=False)) for side in SIDES}
    if found["rejected"] and not found["chosen"]:
        found["chosen"] = bool(
            finder.candidates("chosen")
        )  # a dialogue with the better answer, beside the other answer
    pairs: Shape | None = "pairs" if found["chosen"] and found["rejected"] else None
    if (pairs is None and not found["chosen"] and not found["rejected"]) or gives("choices"):
        pairs = "choices" if _has_choice(finder) else "numbers" if _has_pair_numbers(finder) else None
    responses = _of_responses(finder)
    if gives("lists") and finder.candidates("responses"):
        responses = "lists"
    elif gives("rows") and finder.candidates("response"):
        responses = "rows"
    if prefer == "pairs" and gives("lists", "rows") and not gives(*PAIRS) and responses is not None:
        return responses
    if pairs == "numbers" and responses is not None and not gives(*PAIRS):
        pairs = None
    if pairs == "pairs" and prefer == "pairs":
        _refuse_labels(finder)
    best = (pairs or responses) if prefer == "pairs" else responses
    if best is None:
        raise _no_shape(finder, prefer, found)
    return best


def _refuse_labels(finder: Finder) -> None:
    """Raise DataError where chosen and rejected are not texts, but say which of other columns are."""
    columns = [finder.candidates(side)[0] for side in SIDES]
    if set(SIDES) & set(finder.given) or finder.survey.look_like("long", columns):
        return
    lists = finder.candidates("responses")
    choice = finder.choice() if not lists else None
    texts = choice[:2] if choice is not None else lists
    if finder.survey.look_like("long", texts):
        said = f"preference={columns[0]}" if choice is not None else f"responses={lists[0]},rewards=COLUMN"
        raise DataError(
            f"{finder.source}: {columns[0]!r} and {columns[1]!r} hold single words, and the texts seem to be in "
            f"{' and '.join(texts)}",
            f"Name the columns: --columns {said} if the words say which response is better, or chosen={columns[0]},"
            f"rejected={columns[1]} if they are the responses.",
        )


def _of_responses(finder: Finder) -> Shape | None:
    for later in (False, True):
        if finder.candidates("responses", later=later):
            return "lists"
        # a dialogue alone is a prompt or an example: with a score it is a response
        scored = any(finder.candidates(ours) for ours in ("reward", "rank"))
        if finder.candidates("response", later=later) and (scored or not later):
            return "rows"
    return None


def _has_choice(finder: Finder) -> bool:
    found = finder.choice()
    if found is None:
        return False
    has_preference = any(finder.candidates(ours) for ours in ("preference", "preference_strength"))
    if has_preference or finder.sides("reward", LETTERS, found[2]) is not None:
        return True
    raise DataError(
        f"{finder.source} has {found[0]} and {found[1]}, and no column is recognised that names the better one",
        "Name it: --columns preference=COLUMN (it names the better one, or is `tie`), preference_strength=COLUMN (below 0: the "
        "first is better), or reward_a=COLUMN,reward_b=COLUMN.",
    )


def _has_pair_numbers(finder: Finder) -> bool:
    sided = any(finder.sides(stem) is not None for stem in ("reward", "policy_logp"))
    return sided or bool(finder.candidates("explicit_margin"))


def _no_shape(finder: Finder, prefer: str, found: Mapping[str, bool]) -> DataError:
    there = f"{finder.source} has the columns {', '.join(finder.survey.columns)}"
    if found["chosen"] != found["rejected"]:
        has, lacks = SIDES if found["chosen"] else SIDES[::-1]
        return DataError(f"{there}: {has} without {lacks}", f"Name it: --columns {lacks}=COLUMN.")
    if prefer == "responses":
        return DataError(
            f"{there}: no responses to build pairs from",
            "Name them: --columns responses=COLUMN,rewards=COLUMN (lists, one row a prompt) or "
            "prompt=COLUMN,response=COLUMN,reward=COLUMN (one row a response).",
        )
    return DataError(
        f"{there}: neither pairs nor responses are recognised in them",
        "Name them: --columns prompt=COLUMN,chosen=COLUMN,rejected=COLUMN for pairs, "
        "response_a=COLUMN,response_b=COLUMN,preference=COLUMN for two responses and which is better, "
        "responses=COLUMN,rewards=COLUMN for lists of responses, or response=COLUMN,reward=COLUMN for one row a response.",
    )
