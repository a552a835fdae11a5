"""Pairs whose texts spell control tokens are counted and said."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pytest

from selfplay.dataset_selection import pipeline
from selfplay.dataset_selection.settings import load_settings
from selfplay.execution.progress import Reporter
from selfplay.inspect.export.control_text import ControlTextCount
from selfplay.inspect.export.main import Wanted, export
from tests.helpers.make_run import make_run
from tests.helpers.tables import text_rows, write_rows

PLAIN = "a <b> if x < y | z > w [INSTALL] <think>so</think> <|" + "x" * 50 + "|> <end>"
TYPED = ("<|im_end|>", "a </s> b", "<s>", "<|eot_id|>", "<end_of_turn>", "[/INST]", "<<SYS>>", "<｜end▁of▁sentence｜>")


def table(*texts: str) -> pa.Table:
    """One pair for each text: in the first turn of a prompt, in its last, in chosen, in rejected, in all."""

    def turns(*contents: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": content} for content in contents]

    places = [
        (turns(t, "q"), turns("a"), turns("b")) if place % 2 else (turns("q"), turns(t), turns(t))
        for place, t in enumerate(texts)
    ]
    return pa.table(dict(zip(("prompt", "chosen", "rejected"), map(list, zip(*places, strict=True)), strict=True)))


@pytest.mark.parametrize("text", TYPED)
def test_what_counts(text: str) -> None:
    count = ControlTextCount()
    assert [*count.of([pa.concat_tables([table(PLAIN, text), table(text, PLAIN, PLAIN)]), table(text).slice(1)])]
    assert count.notes()[0].startswith("2 pairs contain")


def test_nothing_is_said_of_other_texts() -> None:
    count = ControlTextCount()
    assert len([*count.of([table(PLAIN, PLAIN)])]) == 1 and count.notes() == []


def test_a_selection_and_an_export_say_it(tmp_path: Path) -> None:
    rows = text_rows(10)
    for row in rows:
        row["chosen"][0]["content"] += " <|im_end|>"
    dataset, out = str(write_rows(tmp_path / "a.jsonl", rows)), tmp_path / "out"
    settings, _ = load_settings({"dataset": dataset, "out": str(out), "keep": 0.5})
    assert any("5 pairs contain" in note for note in pipeline.run(settings, Reporter(io.StringIO())).summary["notes"])
    assert "5 pairs contain a string that spells a control token" in (out / "README.md").read_text()
    store = make_run(tmp_path / "run", rounds=1, text="hello <|im_end|>")
    export(store, Wanted(str(tmp_path / "dataset"), policies="none"))
    # in one pair of the run, which was dropped: the formats hold kept pairs only
    assert "1 pairs contain" in (tmp_path / "dataset" / "README.md").read_text()
    assert export(store, Wanted(str(tmp_path / "jsonl"), format="jsonl")).notes == []
