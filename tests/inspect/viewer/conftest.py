"""A folder with runs and a result of `select`, and clients that ask the viewer over it as a browser does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.helpers.make_run import make_run
from tests.helpers.viewing import NASTY, client_of, make_selection


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`whole` (two rounds), `nasty` (hostile texts), `begun` (killed before round 1 has its pairs), `chosen` (of `select`);
    not to be written to."""
    folder = tmp_path_factory.mktemp("served") / "runs"
    folder.mkdir()
    make_run(folder / "whole")
    make_run(folder / "nasty", text=NASTY)
    make_run(folder / "begun", stop=(1, "select"), outcome=None)
    make_selection(folder)
    return folder


@pytest.fixture(scope="session")
def client(runs: Path) -> TestClient:
    """Over the whole folder."""
    return client_of(runs)


@pytest.fixture
def get(client: TestClient) -> Callable[..., str]:
    """The text of a page that must be there."""

    def call(path: str) -> str:
        answer = client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.text

    return call
