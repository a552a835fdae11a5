"""The folder's own modules can be imported; `run` is a selection on fakes of the backends."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from selfplay.dataset_selection import pipeline
from selfplay.dataset_selection.pipeline import Outcome
from selfplay.dataset_selection.settings import load_settings
from selfplay.execution.progress import Reporter
from tests.helpers.tables import Fakes, Select


@pytest.fixture
def fakes() -> Fakes:
    return Fakes()


@pytest.fixture
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def run(tmp_path: Path, fakes: Fakes, said: io.StringIO) -> Select:
    """Select into tmp_path/out (or `out`)."""

    def call(dataset: Path | None, **flags: Any) -> Outcome:
        given = {
            "dataset": str(dataset) if dataset is not None else None,
            "out": str(tmp_path / "out"),
            "keep": 0.4,
            "shard_size": 4,
            **flags,
        }
        settings, _ = load_settings(given)
        return pipeline.run(settings, Reporter(said), workers=fakes, command="selfplay select x")

    return call
