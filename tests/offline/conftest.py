"""The folder's own modules can be imported; `run` is a selection on fakes of the backends."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from tables import Fakes, Select

from selfplay.offline import pipeline
from selfplay.offline.pipeline import Outcome
from selfplay.offline.settings import load_settings
from selfplay.reporting import Reporter


@pytest.fixture
def fakes() -> Fakes:
    return Fakes()


@pytest.fixture
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def run(tmp_path: Path, fakes: Fakes, said: io.StringIO) -> Select:
    """Select into tmp_path/out (or `out`)."""

    def call(dataset: Path, **flags: Any) -> Outcome:
        given = {"dataset": str(dataset), "out": str(tmp_path / "out"), "keep": 0.4, "shard_size": 4, **flags}
        settings, _ = load_settings(given)
        return pipeline.run(settings, Reporter(said), make_pools=fakes, command="selfplay select x")

    return call
