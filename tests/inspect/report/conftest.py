"""The small runs of tests/inspect."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.helpers.make_run import make_run


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of two rounds; not to be written to."""
    return make_run(tmp_path_factory.mktemp("runs") / "whole").layout.root


@pytest.fixture
def run_copy(whole_run: Path, tmp_path: Path) -> Path:
    """A copy of it to do harm to."""
    return Path(shutil.copytree(whole_run, tmp_path / "run"))
