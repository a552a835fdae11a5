"""The table of stages is the one list of them: what it names exists, and what lists stages derives from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import selfplay
from selfplay.core.stages import STAGE_NAMES, STAGES, DiskSizes, stage_named, stages_of
from selfplay.run import loop
from tests.helpers.stages import every_stage

PACKAGE = Path(selfplay.__file__).parent


@pytest.mark.parametrize("name", STAGE_NAMES)
def test_a_function_is_where_the_table_says(name: str) -> None:
    assert loop.function_of(name).__module__ == f"selfplay.run.stages.{name}"
    assert stage_named(name).outcome.stage == name


def test_inputs_are_earlier_stages_or_other_rounds() -> None:
    for position, stage in enumerate(STAGES):
        for given in stage.inputs:
            assert given.stage in STAGE_NAMES
            if given.source == "same":
                assert STAGE_NAMES.index(given.stage) < position


def test_round_0_has_the_evaluation_only() -> None:
    assert stages_of(0) == ("prompts", "evaluate")
    assert stages_of(1) == stages_of(7) == STAGE_NAMES
    assert list(every_stage(1)) == [(0, "prompts"), (0, "evaluate"), *((1, name) for name in STAGE_NAMES)]


def test_every_stage_estimates_its_disk_space() -> None:
    sizes = DiskSizes(2, 8, 3, 6, 100, 50, 1000, 500, 10_000, 20_000)
    assert {stage.name: stage.disk_bytes(sizes, 1) for stage in STAGES} == {
        "prompts": 200, "sample": 8000, "score": 4000, "pair": 4000, "logprobs": 4000, "select": 4200, "train": 30_000,
        "evaluate": 6000,
    }  # fmt: skip
    assert stage_named("prompts").disk_bytes(sizes, 0) == 150


def test_no_other_file_lists_all_stages() -> None:
    """Three stages in a row, in the order of the loop, are a list of stages."""
    in_a_row = re.compile(r"[\"']sample[\"'],\s*[\"']score[\"'],\s*[\"']pair[\"'],\s*[\"']logprobs[\"']")
    found = [path.name for path in PACKAGE.rglob("*.py") if in_a_row.search(path.read_text(encoding="utf-8"))]
    assert found == []
