"""selfplay.start, resume, fork and select: what the commands do, for Python."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import selfplay
from selfplay.core.errors import ConfigError
from selfplay.execution.progress import Reporter
from tests.helpers.fakes import Fakes

WriteConfig = Callable[..., Path]
QUIET = Reporter(quiet=True)


def test_a_run_is_started_resumed_and_forked(write_config: WriteConfig, tmp_path: Path) -> None:
    config = write_config(rounds=1, report={"every": 1})
    run = selfplay.start(config, run_dir=tmp_path / "run", reporter=QUIET, workers=Fakes())
    assert run.store.rounds() == [0, 1]
    run = selfplay.resume(tmp_path / "run", rounds=2, reporter=QUIET, workers=Fakes())
    assert run.store.rounds() == [0, 1, 2]
    forked = selfplay.fork(
        tmp_path / "run", from_round=1, reporter=QUIET, workers=Fakes(), **{"selection.metric": "random"}
    )
    assert forked.store.layout.root == tmp_path / "run-from-1"
    assert forked.store.digest_of(1, "train") == run.store.digest_of(1, "train")
    page = (tmp_path / "run/report.html").read_text()
    assert "complete: all of 2 rounds" in page and "no record of its end" not in page


def test_a_config_may_be_a_dict_and_a_run_is_never_overwritten(write_config: WriteConfig, tmp_path: Path) -> None:
    document = yaml.safe_load(write_config(rounds=1).read_text())
    run = selfplay.start(
        document, run_dir=tmp_path / "run", overrides=["report.every=0"], reporter=QUIET, workers=Fakes()
    )
    assert yaml.safe_load(run.store.config_file("given.yaml"))["rounds"] == 1
    assert not (tmp_path / "run/report.html").exists()
    with pytest.raises(ConfigError, match="already contains a run"):
        selfplay.start(document, run_dir=tmp_path / "run", reporter=QUIET, workers=Fakes())


def test_nothing_heavy_is_imported_before_a_name_is_used() -> None:
    heavy = "('torch', 'ray', 'vllm', 'datasets', 'pyarrow')"
    code = f"import selfplay, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    code = code.replace("import selfplay, sys;", "import selfplay, sys; selfplay.start;").replace(", 'pyarrow'", "")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
