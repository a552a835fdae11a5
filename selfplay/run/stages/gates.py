"""The gates of a round: responses that look like those of a collapsed policy (empty, endless, all the same) stop the run before
anything is trained on them.

Asked at the beginning of *pair*, when the round is sampled and scored and can be looked at. Thresholds are `gates:` in the
configuration; `--force` goes on all the same, which is recorded.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from selfplay.config.running import GatesConfig
from selfplay.core.errors import GateError
from selfplay.core.outcomes import ForcedGate
from selfplay.run.stages.context import Policy, StageContext

SHOWN = 3
SHOWN_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class Tripped:
    """A gate that a round does not pass: its setting, what was found, and responses that show it."""

    setting: str
    message: str
    examples: list[str]


def check(context: StageContext, round_number: int) -> list[ForcedGate]:
    """The gates that this round did not pass and that are forced, to be recorded. Raises GateError without `--force`."""
    found = tripped(_own(context, round_number), context.settings.gates)
    if not found:
        return []
    policy = context.policy(round_number - 1)
    said = "; ".join(gate.message for gate in found)
    if context.force:
        context.reporter.say(f"round {round_number}: {said}: gone on with, as --force says")
        return [ForcedGate(gate.setting, gate.message) for gate in found]
    root = context.store.layout.root
    shown = list(dict.fromkeys(example for gate in found for example in gate.examples))[:SHOWN]
    examples = "".join(f"\n    {example}" for example in shown)
    loosened = " ".join(f"{gate.setting}=1.0" for gate in found)
    raise GateError(
        f"round {round_number}: the responses of the policy after round {policy.round} look like a collapse: {said}. Nothing was "
        f"trained on them; for example:{examples}",
        f"`selfplay show {root} {round_number}` shows the round. {_gentler(context, policy)}If all is as it should be: "
        f"`selfplay resume {root} {loosened}`, or once with --force.",
    )


def _gentler(context: StageContext, policy: Policy) -> str:
    """How the round that trained this policy would be trained otherwise; nothing for the starting policy."""
    if policy.round == 0:
        return ""
    again = f"`selfplay fork {context.store.layout.root} --from-round {policy.round - 1}"
    rate = context.settings.training.learning_rate / 2
    return f"If its training went wrong, train it gentler: {again} training.learning_rate={rate:g}` (or beta, epochs). "


def _own(context: StageContext, round_number: int) -> pa.Table:
    """The responses that the policy itself sampled."""
    columns = ["response_id", "prompt_id", "text", "finish_reason"]
    if context.settings.sampling.mix is None:
        return context.store.table(round_number, "sample", columns=columns)
    table = context.store.table(round_number, "sample", columns=[*columns, "policy_round"])
    return table.filter(pc.is_valid(table["policy_round"]))


def tripped(own: pa.Table, gates: GatesConfig) -> list[Tripped]:
    """The gates that a policy's responses (response_id, prompt_id, text, finish_reason) do not pass."""
    num = own.num_rows
    if not num:
        return []
    texts: list[str] = own["text"].to_pylist()
    empty = [not text.strip() for text in texts]
    cut = [reason != "stop" for reason in own["finish_reason"].to_pylist()]
    most, count = Counter(texts).most_common(1)[0]
    by_prompt: dict[str, list[str]] = {}
    for prompt_id, text in zip(own["prompt_id"].to_pylist(), texts, strict=True):
        by_prompt.setdefault(prompt_id, []).append(text)
    several = {prompt_id: found for prompt_id, found in by_prompt.items() if len(found) > 1}
    alike = {prompt_id for prompt_id, found in several.items() if len({*found}) == 1}
    is_alike = [prompt_id in alike for prompt_id in own["prompt_id"].to_pylist()]
    measured = (
        ("max_empty", gates.max_empty, sum(empty), num, "responses are empty", empty),
        ("max_truncated", gates.max_truncated, sum(cut), num, "responses were cut at the length limit", cut),
        ("max_repeated", gates.max_repeated, count, num, "responses are one text", [text == most for text in texts]),
        ("max_identical", gates.max_identical, len(alike), len(several), "prompts have identical responses", is_alike),
    )
    return [
        Tripped(
            f"gates.{name}",
            f"{part} of {whole} {what} ({part / whole:.1%}, gates.{name} is {limit:.1%})",
            _examples(own, shows),
        )
        for name, limit, part, whole, what, shows in measured
        if whole > 1 and part > limit * whole
    ]


def _examples(responses: pa.Table, shows: list[bool]) -> list[str]:
    rows = [row for row, is_one in enumerate(shows) if is_one][:SHOWN]
    lines = []
    for row in rows:
        text: str = responses["text"][row].as_py()
        shown = repr(text[:SHOWN_CHARACTERS]) + (" ..." if len(text) > SHOWN_CHARACTERS else "")
        lines.append(f"{responses['response_id'][row].as_py()}: {shown}")
    return lines
