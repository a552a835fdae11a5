"""Inspection of a run that the loop itself wrote, on fake backends: the metrics are named as the stages name them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from selfplay.config.load import load_config
from selfplay.execution.progress import Reporter
from selfplay.inspect.documents.pair import pair_document
from selfplay.inspect.documents.pairs import pairs_document
from selfplay.inspect.documents.rounds import rounds_document
from selfplay.inspect.documents.show import show_document
from selfplay.inspect.documents.status import status_document
from selfplay.inspect.verify.verify import verify_document
from selfplay.run import driver
from tests.helpers.fakes import Fakes


def test_every_document_of_a_run(write_config: Callable[..., Path], tmp_path: Path) -> None:
    config = write_config()
    prepared = driver.preflight(load_config(config, []), config.parent, tmp_path / "run")
    store = driver.run(prepared, config.read_text(), [], Reporter(quiet=True), workers=Fakes())
    root = store.layout.root

    verified = verify_document(root, deep=True)
    assert verified["ok"], verified["problems"]
    assert status_document(root)["state"] == "complete"
    row = rounds_document(store)["rounds"][2]
    # this run's reward has no parts
    assert {name for name, value in row.items() if value is None} == {"train_reward_parts", "eval_reward_parts"}
    shown = show_document(store, 2)
    steps = {step["step"]: step for step in shown["funnel"]}
    assert 2 * steps["paired"]["count"] + sum(steps["paired"]["lost"].values()) == steps["sampled"]["count"] == 80
    assert shown["training"]["optimizer_steps"] == row["optimizer_steps"] > 0
    for pair in pairs_document(store, 2)["pairs"]:
        assert len(pair_document(store, pair["pair_id"])["responses"]) == 4
