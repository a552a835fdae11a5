"""A run from Python: lazy tables against the files themselves, what is imported, and the script in docs/."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import selfplay
from selfplay.core.errors import ConfigError
from selfplay.inspect.documents.rounds import rounds_document
from selfplay.inspect.query.tables import TABLES
from selfplay.store.lazy_table import LazyTable
from selfplay.store.run import Store
from tests.helpers.make_run import make_run

EXPLORE = Path(__file__).parents[3] / "docs/explore.py"


def test_tables_are_those_of_the_run(whole_run: Path) -> None:
    run, store = selfplay.open_run(whole_run), Store.open(whole_run)
    assert run.round_numbers == [0, 1, 2]
    assert run.config["selection"]["keep"] == 0.5
    for name, stage in TABLES.items():
        table = getattr(run, name).of_rounds(2)
        every = store.table(2, stage)
        assert len(table) == every.num_rows
        assert table.to_arrow().select(every.column_names).to_pylist() == every.to_pylist()
        assert set(table.to_arrow()["round"].to_pylist()) <= {2}
        assert type(run).__dict__[name].__doc__
    rows = run.rounds.to_arrow().to_pylist()
    for row in rows:  # a column has one type: stages that a round does not have are null
        row["stage_seconds"] = {stage: found for stage, found in row["stage_seconds"].items() if found is not None}
    assert rows == rounds_document(store)["rounds"]
    assert run.rounds.of_rounds(1).select("num_kept").to_arrow().to_pylist() == [{"num_kept": 6}]
    assert run.show(1)["round"] == 1
    assert run.status()["state"] == "complete"
    assert str(whole_run) in repr(run)


def test_narrowing_reads_no_more_than_it_says(whole_run: Path) -> None:
    run = selfplay.open_run(str(whole_run))
    table = run.pairs.where("rank <= 3 and contains(chosen, 'answer')").select("pair_id", "rank")
    found = table.to_arrow()
    assert found.column_names == table.columns == ["pair_id", "rank"]
    assert len(table) == found.num_rows == 6
    assert max(found["rank"].to_pylist()) == 3
    assert table.where("round == 1").head(2).to_arrow().num_rows == 2
    assert len(table.head(4)) == 4
    assert len(run.pairs.head(4)) == len(run.pairs.head(4).to_arrow()) == 4
    assert run.responses.head(50).select("round").to_arrow()["round"].to_pylist() == [1] * 44 + [2] * 6
    assert "rank <= 3" in repr(table)


def test_pandas_and_datasets(whole_run: Path) -> None:
    run = selfplay.open_run(whole_run)
    kept = run.pairs.where("kept").select("pair_id", "prompt", "chosen", "rejected")
    frame, dataset, stream = kept.to_pandas(), kept.to_datasets(), kept.to_datasets(streaming=True)
    assert len(frame) == len(dataset) == 12
    assert list(dataset) == list(stream) == kept.to_arrow().to_pylist()
    assert frame["pair_id"].tolist() == dataset["pair_id"][:]


def test_nothing_is_opened_before_rows_are_asked_for(whole_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = selfplay.open_run(whole_run)

    def refuse(*_: object) -> None:
        raise AssertionError("a file is opened")

    monkeypatch.setattr(LazyTable, "open", refuse)
    run.pairs.of_rounds(1).where("kept").select("rank").head(3)
    with pytest.raises(AssertionError, match="a file is opened"):
        run.pairs.to_arrow()


def test_what_is_not_there_is_said(whole_run: Path, tmp_path: Path) -> None:
    run = selfplay.open_run(whole_run)
    with pytest.raises(ConfigError, match="no column 'rnak'"):
        run.pairs.select("rnak").to_arrow()
    with pytest.raises(ConfigError, match="there is no column 'rnak'"):
        run.pairs.where("rnak > 1").to_arrow()
    with pytest.raises(ConfigError, match="stage select of round 7 is not committed"):
        run.pairs.of_rounds(7).to_arrow()
    with pytest.raises(ConfigError, match="is not a run"):
        selfplay.open_run(tmp_path)
    begun = selfplay.open_run(make_run(tmp_path / "run", stop=(0, "prompts")).layout.root)
    assert (len(begun.pairs), len(begun.rounds), begun.pairs.to_arrow().num_rows) == (0, 0, 0)


def test_importing_the_package_imports_no_library(whole_run: Path) -> None:
    program = (
        "import sys, selfplay\n"
        "early = [n for n in ('pyarrow', 'numpy', 'pandas', 'pydantic', 'yaml') if n in sys.modules]\n"
        f"run = selfplay.open_run({str(whole_run)!r})\nassert len(run.pairs.where('kept').to_arrow()) == 12\n"
        "heavy = [n for n in ('torch', 'vllm', 'ray', 'transformers', 'datasets', 'trl') if n in sys.modules]\n"
        "sys.exit(' '.join(early + heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_script_in_docs_runs(whole_run: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXPLORE), str(whole_run)], capture_output=True, text=True, check=False, cwd=EXPLORE.parents[1]
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "eval_gold_mean" in done.stdout
    assert done.stdout.rstrip().endswith("})")
