"""Diagnostics of a run's round from its committed tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfplay.core.errors import ConfigError
from selfplay.core.outcomes import SelectOutcome
from selfplay.inspect.documents.pairs import pairs_document
from selfplay.inspect.documents.show import show_document
from selfplay.store.run import Store

# of `show --json`: frozen
DIAGNOSTICS_KEYS = ["on", "num_seen", "cut", "margins", "lengths", "labels", "prompts", "groups", "overlaps"]


def test_show_has_what_the_tables_say(whole_run: Path) -> None:
    store = Store.open(whole_run)
    found = show_document(store, 1)["diagnostics"]
    assert list(found) == DIAGNOSTICS_KEYS
    pairs = pairs_document(store, 1, limit=100)["pairs"]
    kept = {pair["pair_id"] for pair in pairs if pair["kept"]}
    best = sorted(pairs, key=lambda pair: (-pair["explicit_margin"], pair["pair_id"]))[: len(kept)]
    common = len(kept & {pair["pair_id"] for pair in best})
    assert found["overlaps"][0]["metric"] == "explicit_margin"
    assert found["overlaps"][0]["share"] == pytest.approx(common / len(kept))
    assert found["lengths"]["gap_mean_pool"] == pytest.approx(
        store.outcome(1, SelectOutcome).to_json()["length_gap_mean"]
    )
    assert found["prompts"] == {"num_pool": 11, "num_kept": 6, "most_kept_pairs": 1}
    assert found["labels"] is None
    assert found["groups"] == {}


def test_groups_by_any_column_of_the_prompts(whole_run: Path) -> None:
    store = Store.open(whole_run)
    found = show_document(store, 1, by="topic")["diagnostics"]["groups"]["topic"]
    assert found["num_groups"] == 11
    assert {share["num_pool"] for share in found["shares"]} == {1}
    by_file = show_document(store, 1, by="source_file")["diagnostics"]["groups"]["source_file"]
    assert [share["group"] for share in by_file["shares"]] == ["/data/train.jsonl"]
    with pytest.raises(ConfigError, match="no column 'topik'") as error:
        show_document(store, 1, by="topik")
    assert "Did you mean topic?" in error.value.hint


def test_round_zero_has_no_selection(whole_run: Path) -> None:
    assert show_document(Store.open(whole_run), 0)["diagnostics"] is None
