"""Pairs that repeat or contradict another one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from selfplay.core.errors import ConfigError
from selfplay.dataset_selection.candidates import Pairs
from selfplay.dataset_selection.repeats import flag_repeats
from selfplay.dataset_selection.settings import SelectSettings
from selfplay.selection.reasons import REWARD_NOT_FINITE, no_reasons, with_reason
from tests.helpers.tables import Select, dropped, kept, number_table, text_rows, write_rows


def source_of(tmp_path: Path) -> Path:
    rows = text_rows(12)
    rows[5] |= {name: rows[1][name] for name in ("prompt", "chosen", "rejected")}
    rows[7] |= {"prompt": rows[2]["prompt"], "chosen": rows[2]["rejected"], "rejected": rows[2]["chosen"]}
    # the same words under another prompt, and a prompt whose turns join to the same text, are no repeats
    rows[8] |= {name: rows[1][name] for name in ("chosen", "rejected")}
    rows[9] |= {"chosen": rows[1]["chosen"], "rejected": rows[1]["rejected"]}
    rows[9]["prompt"] = [{"role": "system", "content": "question 1"}, *rows[1]["prompt"]]
    return write_rows(tmp_path / "a.jsonl", rows)


def test_they_are_flagged(tmp_path: Path, run: Select) -> None:
    outcome = run(source_of(tmp_path))
    rows = {row["source_row"]: row for row in kept(tmp_path / "out") + dropped(tmp_path / "out")}
    flagged = {number: row["duplicate_of"] for number, row in rows.items() if row["duplicate_of"] is not None}
    assert flagged == {6: rows[2]["pair_id"]}
    contradicting = {number: row["reversed_of"] for number, row in rows.items() if row["reversed_of"] is not None}
    assert contradicting == {3: rows[8]["pair_id"], 8: rows[3]["pair_id"]}
    notes = " ".join(outcome.summary["notes"])
    assert "1 of 12 pairs repeat an earlier pair" in notes and "2 of 12 pairs contradict another pair" in notes


def test_they_are_dropped_on_request(tmp_path: Path, run: Select) -> None:
    outcome = run(source_of(tmp_path), keep=1.0, drop_duplicates=True, drop_reversed=True)
    found = {row["source_row"]: row["drop_reason"] for row in dropped(tmp_path / "out")}
    assert found == {6: "duplicate", 3: "reversed", 8: "reversed"}
    assert outcome.summary["selection"]["num_kept"] == 9
    assert not any("repeat" in note for note in outcome.summary["notes"])


def test_without_repeats_there_is_no_column_and_numbers_cannot_be_compared(tmp_path: Path, run: Select) -> None:
    run(write_rows(tmp_path / "a.jsonl", text_rows(10)))
    assert not {"duplicate_of", "reversed_of"} & {*kept(tmp_path / "out")[0]}
    with pytest.raises(ConfigError, match="compare texts"):
        run(number_table(tmp_path / "n.parquet"), drop_duplicates=True, out=str(tmp_path / "numbers"))


def test_a_pair_that_is_dropped_already_drops_no_other(tmp_path: Path) -> None:
    texts = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in text_rows(3)]
    turns = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    names = ("prompt", "chosen", "rejected")
    shape = pa.schema([("pair_id", pa.string()), *((name, turns) for name in names)])
    # the last pair repeats the first, which has no reward
    rows = [{"pair_id": str(number), **row} for number, row in enumerate([*texts, texts[0]])]
    lost = np.array([True, False, False, False])
    pairs = Pairs(
        pa.Table.from_pylist(rows, shape),
        {},
        with_reason(no_reasons(4), lost, REWARD_NOT_FINITE),
        np.arange(4),
        np.arange(4),
    )
    settings = SelectSettings.model_construct(drop_duplicates=True, drop_reversed=False)
    flag_repeats(pairs, settings)
    assert pairs.table["duplicate_of"].to_pylist() == [None, None, None, "0"]
    assert pairs.reasons.counts() == {REWARD_NOT_FINITE: 1}
