"""The gates: what a collapsed policy's responses look like, and what does not look like one."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest

from selfplay.config.running import GatesConfig
from selfplay.run.stages.gates import Tripped
from selfplay.run.stages.gates import tripped as gates_tripped
from selfplay.run.stages.responses import RoundResponses

DEFAULT = GatesConfig()


def pool(texts: list[list[str]], cut: float = 0.0) -> pa.Table:
    """Prompts with their responses, the fraction `cut` of them cut."""
    rows = [
        (f"p{number}-{index}", f"p{number}", text)
        for number, found in enumerate(texts)
        for index, text in enumerate(found)
    ]
    reasons = ["length" if row < cut * len(rows) else "stop" for row in range(len(rows))]
    columns = [list(column) for column in zip(*rows, strict=True)]
    table = pa.table([*columns, reasons], names=["response_id", "prompt_id", "text", "finish_reason"])
    number = pa.repeat(pa.scalar(0), len(rows))
    return (
        table.append_column("response_index", number)
        .append_column("num_tokens", number)
        .append_column("policy_round", number)
    )


def tripped(table: pa.Table, gates: GatesConfig) -> list[Tripped]:
    return gates_tripped(RoundResponses.of([table]), gates, lambda rows: table.take(pa.array(rows)))


def various(prompts: int = 50, responses: int = 4, words: int = 1000) -> list[list[str]]:
    draw = random.Random(0)
    return [[f"the answer is {draw.randrange(words)}" for _ in range(responses)] for _ in range(prompts)]


@pytest.mark.parametrize(
    ("texts", "cut", "gate"),
    [
        ([["", "  \n", " ", "three"]] * 10, 0.0, "gates.max_empty"),
        (various(), 0.985, "gates.max_truncated"),
        ([["as ever"] * 4] * 9 + [["as ever"] * 3 + ["not"]], 0.0, "gates.max_repeated"),
        ([[f"{number}"] * 4 for number in range(100)], 0.0, "gates.max_identical"),
    ],
)
def test_a_collapse_is_named_with_figures_and_examples(texts: list[list[str]], cut: float, gate: str) -> None:
    found = {each.setting: each for each in tripped(pool(texts, cut), DEFAULT)}
    assert gate in found
    assert f"{gate} is " in found[gate].message and "%" in found[gate].message
    assert 1 <= len(found[gate].examples) <= 3
    assert all(example.startswith("p") and ": '" in example for example in found[gate].examples)


@pytest.mark.parametrize(
    ("texts", "cut"),
    [
        (various(), 0.6),  # many a good pool of mathematics is cut as often
        (various(words=3), 0.0),  # a small world of three answers
        ([["yes", "no", "yes", "yes"], ["no", "yes", "no", "no"]] * 20, 0.0),
        ([["yes"] * 4, ["no"] * 4, ["yes", "no", "yes", "no"]] * 10, 0.0),  # nearly greedy
        ([["", "a", "b", "c"]] * 10, 0.0),
        ([["one alone"]], 0.0),
        ([["one", "two"]], 0.0),
    ],
)
def test_ordinary_rounds_pass(texts: list[list[str]], cut: float) -> None:
    assert tripped(pool(texts, cut), DEFAULT) == []


def test_thresholds_of_one_never_stop_a_round() -> None:
    off = GatesConfig(max_empty=1.0, max_truncated=1.0, max_repeated=1.0, max_identical=1.0)
    assert tripped(pool([[""] * 4] * 10, 1.0), off) == []
    assert len(tripped(pool([[""] * 4] * 10, 1.0), DEFAULT)) == 4


def test_long_and_hostile_examples_are_short_and_printable() -> None:
    text = "\x1b[2J\u202e" + "x" * 1000
    (gate,) = tripped(pool([[text] * 4] * 10), GatesConfig(max_identical=1.0))
    assert all(example.isprintable() and len(example) < 130 for example in gate.examples)
