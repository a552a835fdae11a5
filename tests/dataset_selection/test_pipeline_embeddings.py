"""A dataset's own embeddings, those of a model of their own, and a metric that cannot be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from selfplay.core.errors import ConfigError
from selfplay.selection.diagnostics.diagnose import diagnose
from selfplay.selection.select import PairPool, select
from tests.helpers.tables import Select, dropped, kept, text_rows, write_rows


def rows(count: int, *, texts: bool) -> list[dict[str, Any]]:
    found = text_rows(count)
    if not texts:
        found = [{name: row[name] for name in row if name not in ("prompt", "chosen", "rejected")} for row in found]
    for at, row in enumerate(found):
        row["embedding"] = [at % 5, 1.5, -at]
    return found


@pytest.mark.parametrize("texts", [True, False])
@pytest.mark.parametrize("metric", ["explicit_margin", "random", "alignment_potential", "density"])
def test_a_dataset_with_embeddings_is_ranked_by_any_metric(
    tmp_path: Path, run: Select, metric: str, texts: bool
) -> None:
    outcome = run(write_rows(tmp_path / "a.jsonl", rows(20, texts=texts)), metric=metric)
    assert len(kept(tmp_path / "out")) == 8
    assert len(dropped(tmp_path / "out")) == 12
    assert "embedding" not in pq.read_schema(tmp_path / "out" / "kept" / "part-00000.parquet").names
    compared = {found["metric"] for found in outcome.summary["diagnostics"]["overlaps"]}
    assert "density" in compared or metric == "density"
    assert "The embeddings are not written into the result." in outcome.summary["notes"]


def test_an_embedding_model_needs_no_policy(tmp_path: Path, tiny_world: Path, run: Select) -> None:
    source = write_rows(tmp_path / "a.jsonl", text_rows(10, columns=False))
    model = {"embedding_model": str(tiny_world / "policy")}
    outcome = run(source, metric="density", **model)
    assert outcome.summary["selection"]["num_kept"] == 4
    assert set(outcome.summary["models"]) == {"embedding_model"}
    # beside it a policy computes what it is there for
    both = run(source, metric="density", policy=str(tiny_world / "policy"), out=str(tmp_path / "both"), **model)
    assert both.summary["diagnostics"]["margins"]["implicit_abs_mean"] is not None
    with pytest.raises(ConfigError, match="embedding_model does nothing: the dataset has its embeddings"):
        run(write_rows(tmp_path / "b.jsonl", rows(9, texts=True)), metric="density", out=str(tmp_path / "c"), **model)


def test_a_metric_that_refuses_the_columns_is_said_and_stops_nothing() -> None:
    columns = {
        "reward_chosen": np.arange(30.0), "reward_rejected": np.full(30, -1.0), "embedding": np.arange(30.0),
    }  # fmt: skip
    pool = PairPool(pair_id=[f"{row:02d}" for row in range(30)], columns=columns)
    found = diagnose(pool, select(pool, metric="explicit_margin", keep=0.5))
    assert "density" not in {one.metric for one in found.overlaps}
    warning = next(one for one in found.warnings if one.name == "not_compared")
    assert "density" in warning.message
    assert "shape (30,)" in warning.message
