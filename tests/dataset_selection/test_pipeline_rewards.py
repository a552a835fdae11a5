"""Several rewards, combined as in a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from selfplay.core.errors import ConfigError, DriftError
from selfplay.core.outcomes import ScoreOutcome
from selfplay.core.protocols import ScoreItem
from selfplay.store.run import Store
from tests.helpers.tables import Fakes, FakeScorer, Select, dropped, kept, text_rows, write_rows


class VowelScorer(FakeScorer):
    """The share of vowels."""

    def score(self, items: Sequence[ScoreItem]) -> pa.Table:
        table = super().score(items)
        shares = [sum(letter in "aeiou" for letter in item.response) / len(item.response) for item in items]
        return table.set_column(1, "reward", pa.array(shares, pa.float64()))


@pytest.fixture
def parts(tmp_path: Path, fakes: Fakes) -> dict[str, Any]:
    (tmp_path / "mine.py").write_text(
        "def length(prompt, response):\n    return 0.0\n\n\ndef vowels(prompt, response):\n    return 0.0\n"
    )
    fakes.parts = {"vowels": VowelScorer()}
    mine = tmp_path / "mine.py"
    return {"length": {"function": f"{mine}:length", "weight": -0.5}, "vowels": {"function": f"{mine}:vowels"}}


def z(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return (values - values.mean()) / values.std()


def test_the_reward_is_the_weighted_sum_and_the_parts_stay(tmp_path: Path, run: Select, parts: dict[str, Any]) -> None:
    source = write_rows(tmp_path / "a.jsonl", text_rows(12, columns=False))
    outcome = run(source, metric="explicit_margin", reward={"parts": parts})
    rows = kept(tmp_path / "out") + dropped(tmp_path / "out")
    columns = {name: np.array([[row[f"{name}_{side}"] for side in ("chosen", "rejected")] for row in rows]).ravel()
               for name in ("reward", "reward_length", "reward_vowels")}  # fmt: skip
    assert columns["reward_length"].tolist() == [
        float(len(row[side][0]["content"])) for row in rows for side in ("chosen", "rejected")
    ]
    expected = z(columns["reward_vowels"]) - 0.5 * z(columns["reward_length"])
    np.testing.assert_allclose(columns["reward"], expected, atol=1e-9)
    assert outcome.summary["models"]["reward.parts.length"]["name"] == "mine.py:length"
    combined = Store.open(tmp_path / "out" / ".run").outcome(1, ScoreOutcome).combined
    assert combined is not None and {*combined.reward_parts} == {"length", "vowels"}
    assert str(tmp_path) not in (tmp_path / "out" / "summary.json").read_text()
    # a part is a part of what the selection is
    with pytest.raises(DriftError, match=r"reward"):
        run(source, metric="explicit_margin", reward={"parts": {**parts, "length": {**parts["length"], "weight": 1.0}}})


def test_what_cannot_be(tmp_path: Path, run: Select, parts: dict[str, Any]) -> None:
    source = write_rows(tmp_path / "a.jsonl", text_rows(12))
    for settings, said in (
        ({"reward": {"parts": parts}}, "reward does nothing: the dataset has its rewards already"),
        ({"reward": {"parts": parts}, "reward_function": "m:f"}, "give one of"),
        ({"reward": {"parts": {}}}, "reward"),
        ({"reward": {"parts": {"chosen": parts["length"]}}}, "cannot be the name of a part"),
        ({"reward": {"parts": {"a": {**parts["length"], "weight": 0.0}}}}, "gives the part no effect"),
    ):
        with pytest.raises(ConfigError, match=said):
            run(source, **settings)
