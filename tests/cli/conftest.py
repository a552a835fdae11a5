"""The commands as a user calls them, in this process, on a small run made through the Store API."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from selfplay.cli.main import app
from tests.helpers.make_run import make_run


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of two rounds; not to be written to."""
    return make_run(tmp_path_factory.mktemp("runs") / "whole").layout.root


@pytest.fixture
def selfplay() -> Callable[..., Result]:
    """Call a command; the result has exit_code, stdout and stderr."""
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])
