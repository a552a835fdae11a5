"""The gates of a round: responses that look like those of a collapsed policy (empty, cut, identical) stop the run before
a training uses them.

Asked at the beginning of *pair*, when the round is sampled and scored and can be looked at. Thresholds are `gates:` in the
configuration. With `--force` the run continues, and the outcome of the stage records it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selfplay.config.running import GatesConfig
from selfplay.core.commands import shell_command
from selfplay.core.errors import GateError
from selfplay.core.outcomes import ForcedGate
from selfplay.run.stages.context import Policy, StageContext
from selfplay.run.stages.responses import RoundResponses
from selfplay.selection.arrays import Bools, Ints, run_starts
from selfplay.store.lazy_table import LazyTable

SHOWN = 3
SHOWN_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class Tripped:
    """A gate that a round does not pass: its setting, what was found, and responses that show it."""

    setting: str
    message: str
    examples: list[str]


def check(context: StageContext, round_number: int, responses: RoundResponses, sample: LazyTable) -> list[ForcedGate]:
    """The gates that this round did not pass and that are forced, to be recorded. Raises GateError without `--force`."""
    found = tripped(responses, context.settings.gates, lambda rows: sample.take(rows, ["response_id", "text"]))
    if not found:
        return []
    policy = context.policy(round_number - 1)
    said = "; ".join(gate.message for gate in found)
    if context.force:
        context.reporter.say(f"round {round_number}: {said}; the run continues because of --force")
        return [ForcedGate(gate.setting, gate.message) for gate in found]
    root = context.store.layout.root
    shown = list(dict.fromkeys(example for gate in found for example in gate.examples))[:SHOWN]
    examples = "".join(f"\n    {example}" for example in shown)
    loosened = [f"{gate.setting}=1.0" for gate in found]
    raise GateError(
        f"round {round_number}: the responses of the policy after round {policy.round} look like a collapse: {said}. Nothing was "
        f"trained on them. Examples:{examples}",
        f"`{shell_command('show', root, round_number)}` shows the round. {_repeat_training(context, policy)}If these responses "
        "are as intended: "
        f"`{shell_command('resume', root, *loosened)}`, or once with --force.",
    )


def _repeat_training(context: StageContext, policy: Policy) -> str:
    """How to train the round of this policy again with a lower learning rate; empty for the starting policy."""
    if policy.round == 0:
        return ""
    rate = f"training.learning_rate={context.settings.training.learning_rate / 2:g}"
    again = shell_command("fork", context.store.layout.root, "--from-round", policy.round - 1, rate)
    how = "If its training went wrong, repeat it with a lower learning rate"
    return f"{how}: `{again}` (or change beta or epochs). "


def tripped(responses: RoundResponses, gates: GatesConfig, take: Callable[[Ints], pa.Table]) -> list[Tripped]:
    """The gates that the responses of the policy itself do not pass. `take` returns response_id and text of rows."""
    own: Ints | slice = (
        slice(None) if responses.own_R.all() else np.flatnonzero(responses.own_R)
    )  # no copies if all are
    empty_N, cut_N, text_N = responses.empty_R[own], responses.truncated_R[own], responses.text_R[own]
    num = len(text_N)
    if not num:
        return []
    most, count = _most_frequent(text_N)
    is_alike_N, num_alike, num_several = _alike(responses.prompt_R[own], text_N)
    row_N = np.arange(len(responses.own_R))[own]
    measured = (
        ("max_empty", gates.max_empty, int(empty_N.sum()), num, "responses are empty", empty_N),
        ("max_truncated", gates.max_truncated, int(cut_N.sum()), num, "responses were cut at the length limit", cut_N),
        ("max_repeated", gates.max_repeated, count, num, "responses are one text", text_N == most),
        ("max_identical", gates.max_identical, num_alike, num_several, "prompts have identical responses", is_alike_N),
    )
    return [
        Tripped(
            f"gates.{name}",
            f"{part} of {whole} {what} ({part / whole:.1%}, gates.{name} is {limit:.1%})",
            _examples(take(row_N[np.flatnonzero(shows_N)[:SHOWN]])),
        )
        for name, limit, part, whole, what, shows_N in measured
        if whole > 1 and part > limit * whole
    ]


def _alike(prompt_N: Ints, text_N: Ints) -> tuple[Bools, int, int]:
    """Responses of prompts with several that are all one text; how many such prompts there are, and how many with several."""
    is_sorted = bool((prompt_N[1:] >= prompt_N[:-1]).all())
    order: Ints | slice = slice(None) if is_sorted else np.argsort(prompt_N, kind="stable")
    prompts, texts = prompt_N[order], text_N[order]
    start = run_starts(prompts)
    size = np.diff(start, append=len(prompts))
    alike = np.logical_and.reduceat(texts == np.repeat(texts[start], size), start) & (size > 1)
    is_alike_N = np.empty(len(prompts), dtype=np.bool_)
    is_alike_N[order] = np.repeat(alike, size)
    return is_alike_N, int(alike.sum()), int((size > 1).sum())


def _most_frequent(text_N: Ints) -> tuple[int, int]:
    """The most frequent text and how often it is there; of several, the one that comes first."""
    texts, counts = np.unique(text_N, return_counts=True)
    count = int(counts.max())
    if count == 1:
        return int(text_N[0]), 1
    return int(text_N[np.flatnonzero(np.isin(text_N, texts[counts == count]))[0]]), count


def _examples(responses: pa.Table) -> list[str]:
    lines = []
    for row in responses.to_pylist():
        text: str = row["text"]
        shown = repr(text[:SHOWN_CHARACTERS]) + (" ..." if len(text) > SHOWN_CHARACTERS else "")
        lines.append(f"{row['response_id']}: {shown}")
    return lines
