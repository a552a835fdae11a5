"""Weights are hashed once from the end of a training to the next use of the policy, by the process that adopts them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from selfplay.config.load import load_config
from selfplay.execution.progress import Reporter
from selfplay.run import driver
from selfplay.store import durable
from selfplay.store.run import Store
from tests.helpers.fakes import Fakes


def test_each_weight_is_hashed_once_a_round(
    write_config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_config(rounds=2)
    prepared = driver.preflight(load_config(config), config.parent, tmp_path / "run")
    hashed: Counter[int] = Counter()  # inode -> bytes: a published folder has another name
    real = durable.sha256_file

    def counted(path: Path) -> str:
        hashed[path.stat().st_ino] += path.stat().st_size
        return real(path)

    monkeypatch.setattr(durable, "sha256_file", counted)
    driver.run(prepared, config.read_text(), [], Reporter(quiet=True), workers=Fakes())
    store = Store.open(tmp_path / "run")
    for number in (1, 2):
        folder = store.layout.stage(number, "train")
        weights = [entry for entry in store.commit_of(number, "train").files if entry.path.startswith("policy/")]
        assert weights
        for entry in weights:
            path = folder / entry.path
            assert hashed[path.stat().st_ino] == entry.num_bytes, path
            assert path.stat().st_mode == store.layout.identity.stat().st_mode
