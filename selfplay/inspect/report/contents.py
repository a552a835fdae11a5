"""The contents of a report, gathered from the documents of `inspect`. One round's columns
are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from selfplay.config.anonymize import neutral_text
from selfplay.config.strict_yaml import dump
from selfplay.core.outcomes import PromptsOutcome, RoundOutcomes
from selfplay.core.stages import LAST_STAGE
from selfplay.inspect.documents.examples import example_answers, example_pairs
from selfplay.inspect.documents.lineage import lineage_document
from selfplay.inspect.documents.overlap import overlap_document
from selfplay.inspect.documents.rounds import RoundSummary, round_summary
from selfplay.inspect.documents.show import show_document
from selfplay.inspect.reading import settings_for_others
from selfplay.inspect.report.figures import Figure, facts_of, run_figures
from selfplay.inspect.report.round_figures import round_figures
from selfplay.store.run import Store
from selfplay.store.run_state import config_in_force, is_selection, next_stage

DETAILED = 10
"""Rounds that are shown in detail: the newest ones. All are in the tables and in the plots by round."""
_PAIRS_NEWEST, _PAIRS, _PROMPTS = 3, 1, 2
_PROMPT_SETTINGS = ("policy.system_prompt", "policy.chat_template")
_LEFT_OUT = "(text left out)"

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RoundDetail:
    """One round: figures, why responses and pairs were left out (step, reason, count), examples (none where redacted), and what
    computed rewards and log-probs."""

    number: int
    figures: list[Figure]
    lost: list[tuple[str, str, int]]
    kept: list[Document]
    dropped: list[Document]
    engines: list[str]


@dataclass(frozen=True, slots=True)
class Report:
    """The content of a report of the run called `name`. `redacted`: without text of prompts and responses;
    `num_commits`: committed stages that it was made from."""

    name: str
    redacted: bool
    state: str
    lineage: Document
    rows: list[RoundSummary]
    facts: list[tuple[str, str, str]]
    warnings: list[Document]
    figures: list[Figure]
    details: list[RoundDetail]
    answers: list[Document]
    settings: str
    pins: dict[str, str]
    versions: dict[str, str]
    attempts: list[Document]
    overrides: list[str]
    as_of: str
    num_commits: int


Known = dict[tuple[int, bool], tuple[list[Document], RoundDetail | None]]
"""Warnings and detail of complete rounds, by round and whether its tables were read."""


def gather(store: Store, *, redact: bool = False, known: Known | None = None) -> Report:
    """Read a run as it is now. `known` is filled, and what it holds of complete rounds is not gathered again, so that a run
    that writes a report after each round reads each round's tables once. Raises CorruptionError for a run that is not what its
    commits say."""
    known = {} if known is None else known
    numbers = store.rounds()
    outcomes = {number: store.outcomes(number) for number in numbers}
    rows = [round_summary(store, number, outcomes[number]) for number in numbers]
    config = config_in_force(store)
    seed = int(config["seed"])
    hidden = _own_words(outcomes) if redact else {}
    details: list[RoundDetail] = []
    warnings: list[tuple[int, Document]] = []
    for number in numbers:
        is_detailed = number in numbers[-DETAILED:]
        if (key := (number, is_detailed)) not in known:
            # tables of old rounds are not read again and again: of those only what their metrics say is warned of
            shown = show_document(store, number, tables=is_detailed, quick=True)
            num = 0 if redact else _PAIRS_NEWEST
            detail = _detail(store, shown, seed, num, hidden) if number and is_detailed else None
            known[key] = [_said(warning, hidden) for warning in shown["warnings"]], detail
        said, found = known[key]
        warnings += [(number, warning) for warning in said]
        if found is not None:
            num = _PAIRS_NEWEST if number == numbers[-1] else _PAIRS
            details.append(replace(found, kept=found.kept[:num], dropped=found.dropped[:num]))
        if redact or not store.is_committed(number, LAST_STAGE):  # what is hidden depends on all rounds
            del known[key]
    tries = store.attempt_documents()
    commits = [store.commit_of(number, stage) for number in numbers for stage in store.committed(number)]
    return Report(
        name=(store.layout.root.parent if is_selection(store) else store.layout.root).name,
        redacted=redact,
        state=_state(store, int(config["rounds"])),
        lineage=lineage_document(store),
        rows=rows,
        facts=facts_of(rows),
        warnings=_together(warnings),
        figures=run_figures(rows, outcomes, overlap_document(store)),
        details=details[::-1],
        answers=[] if redact else example_answers(store, numbers, seed, _PROMPTS),
        settings=_settings(store, redact),
        pins=store.config_json("pins.json", dict),
        versions=dict(tries[-1].get("versions", {})) if tries else {},
        attempts=[_attempt(document) for document in tries],
        overrides=[
            _LEFT_OUT if redact and text.startswith(_PROMPT_SETTINGS) else neutral_text(text)
            for text in store.config_json("overrides.json", list)
        ],
        as_of=max((commit.created for commit in commits), default=""),
        num_commits=len(commits),
    )


def _settings(store: Store, redact: bool) -> str:
    """What others need to do it again, as YAML; a system prompt and a chat template are text of prompts."""
    settings = settings_for_others(store)
    for name in _PROMPT_SETTINGS:
        section, _, key = name.partition(".")
        if redact and key in settings.get(section, {}):
            settings[section][key] = _LEFT_OUT
    return dump(settings)


def _state(store: Store, planned: int) -> str:
    """What is done and what comes next. A report is a moment: whether a driver is at work is for `status` to say."""
    following = next_stage(store, planned)
    rounds = f"{planned} round{'s' if planned != 1 else ''}"
    if following is None:
        return f"complete: all of {rounds}"
    return f"not complete: of {rounds}, next is round {following[0]} {following[1]}"


def _detail(store: Store, shown: Document, seed: int, num: int, hidden: Mapping[str, str]) -> RoundDetail:
    number = shown["round"]
    lost = [
        (step["step"], _hide(neutral_text(reason), hidden), count)
        for step in shown["funnel"]
        for reason, count in step["lost"].items()
    ]
    pairs = example_pairs(store, number, seed, num) if num and shown["selection"] is not None else {}
    return RoundDetail(
        number, round_figures(store, shown), lost, pairs.get("kept", []), pairs.get("dropped", []), shown["engines"]
    )


def _own_words(outcomes: Mapping[int, RoundOutcomes]) -> dict[str, str]:
    """Reasons that are more than a name (what a function of the user's raised may quote a response) and what replaces each
    in a report without text."""
    reasons = {
        reason
        for found in outcomes.values()
        for outcome in found
        for key, value in outcome.to_json().items()
        if key.endswith("reasons") and isinstance(value, Mapping)
        for reason in value
    }
    prompts = [found.get(PromptsOutcome) for found in outcomes.values()]
    bad_rows = {row.reason for outcome in prompts if outcome for row in outcome.bad_rows}
    # longest first: one may hold another
    words = sorted((reason for reason in reasons | bad_rows if not reason.isidentifier()), key=len, reverse=True)
    return {neutral_text(reason): f"{_word(reason)} {_LEFT_OUT}" for reason in words}


def _word(reason: str) -> str:
    """The name that a reason begins with."""
    first = reason.partition(":")[0]
    return first if first.isidentifier() else "reason"


def _hide(text: str, hidden: Mapping[str, str]) -> str:
    for words, instead in hidden.items():
        text = text.replace(words, instead)
    return text


def _said(warning: Mapping[str, str], hidden: Mapping[str, str]) -> Document:
    return {name: _hide(neutral_text(text), hidden) for name, text in warning.items()}


def _together(warnings: Sequence[tuple[int, Document]]) -> list[Document]:
    """One entry a name: `said` (round and message, newest first) and the hint; what the newest rounds say comes first."""
    found: dict[str, Document] = {}
    for number, warning in sorted(warnings, key=lambda item: -item[0]):
        entry = found.setdefault(warning["name"], {"name": warning["name"], "hint": warning["hint"], "said": []})
        entry["said"].append((number, warning["message"]))
    return list(found.values())


def _attempt(document: Mapping[str, Any]) -> Document:
    end = document["end"] or {}
    return {
        "attempt": document["attempt"],
        "started": document["started"],
        "ended": end.get("ended"),
        "outcome": end.get("outcome") or "no record of its end",
    }
