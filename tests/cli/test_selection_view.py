"""The diagnostics of a selection as text: parts that are there, none that are not, hostile names made harmless."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np

from selfplay.cli.selection_view import diagnostic_lines, warning_lines
from selfplay.selection.diagnostics.diagnose import diagnose
from selfplay.selection.diagnostics.groups import Grouping
from selfplay.selection.select import PairPool, select


def document(num_pairs: int, names: list[str], **asked: Any) -> dict[str, Any]:
    row = np.arange(num_pairs, dtype=np.float64)
    columns = {
        "reward_chosen": 1 + row % 7 * (1 + row % 2),
        "reward_rejected": 0 * row,
        "num_tokens_chosen": 5 + row % 3,
        "num_tokens_rejected": 6 + row % 2,
        "policy_logp_chosen": -1 - row % 5,
        "policy_logp_rejected": -2 - row % 3,
    }
    pool = PairPool(pair_id=[f"p{number:03d}" for number in range(num_pairs)], columns=columns)
    selection = select(pool, metric="explicit_margin", keep=0.4, **asked)
    skills = [names[number % len(names)] for number in range(num_pairs)] if names else []
    groups = {"skill": Grouping.of(skills)} if names else {}
    found = diagnose(pool, selection, groups=groups, num_read=num_pairs + 2, bad={"empty": 2})
    return dict(json.loads(json.dumps(dataclasses.asdict(found))))


def test_every_part_is_a_block() -> None:
    blocks = diagnostic_lines(document(100, ["one", "two\x1b[2J"]))
    assert [block.split("\n")[0].split(":")[0] for block in blocks] == [
        "funnel", "distributions", "pool and kept pairs", "kept pairs that other metrics would keep too",
        "groups by skill",
    ]  # fmt: skip
    text = "\n".join(blocks)
    assert "dropped: empty 2" in text
    assert "two\\x1b[2J" in text
    assert "\x1b" not in text


def test_next_to_nothing_is_shown_too() -> None:
    for num_pairs in (0, 1, 2):
        found = document(num_pairs, [])
        assert diagnostic_lines(found)[0].startswith("funnel")
        assert len(warning_lines(found)) == (round(0.4 * num_pairs) == 0)


def test_a_sample_is_said() -> None:
    found = document(100, []) | {"on": "sample", "num_seen": 60}
    headings = [block.split("\n")[0] for block in diagnostic_lines(found)]
    assert headings[1:] == [
        "distributions (of a sample of 60 pairs)", "pool and kept pairs (of a sample of 60 pairs)",
        "kept pairs that other metrics would keep too (of a sample of 60 pairs)",
    ]  # fmt: skip


def test_warnings_have_a_way_out() -> None:
    lines = warning_lines(document(100, ["one", "two"]))
    assert lines
    assert all(line.startswith("WARNING ") and "\n  -> " in line for line in lines)
