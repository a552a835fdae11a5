"""Fixtures of comparisons on fakes (see comparing.py)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.helpers.comparing import GOLD, METRICS, document_of, run_compare


@pytest.fixture
def config(write_config: Callable[..., Path], tmp_path: Path) -> Path:
    """A config with a gold judge: 20 prompts x 4 responses, keep 0.5, batches of 2, 2 epochs; 1 round."""
    (tmp_path / "my_gold.py").write_text(GOLD)
    return write_config(evaluation={"gold": "my_gold.py:gold"}, training={"epochs": 2}, rounds=1)


@pytest.fixture(scope="session")
def finished(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison of `METRICS` over two rounds, in `world0/out` beside its config; not to be written to."""
    folder = tmp_path_factory.mktemp("finished") / "world0"
    folder.mkdir()
    (folder / "my_gold.py").write_text(GOLD)
    (folder / "config.yaml").write_text(yaml.safe_dump(document_of(tiny_world)))
    run_compare(folder / "out", [folder / "config.yaml"], metrics=METRICS, by="topic")
    return folder / "out"


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """A copy of it to do harm to; its config is where it was. Nobody began it here: to run more of it takes `trust_code`."""
    return Path(shutil.copytree(finished, tmp_path / "out"))
