"""Room for a stage is asked for before it begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfplay.config.load import load_config
from selfplay.core.errors import ResourceError
from selfplay.run import disk_estimate
from selfplay.run.disk_estimate import check_room
from tests.helpers.make_run import make_run
from tests.run.test_plan import Usage, WriteConfig, inputs_of


def test_a_stage_that_does_not_fit_is_refused_unless_forced(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_run(tmp_path / "run", rounds=1, stop=(1, "sample"), outcome=None)
    path = write_config()
    config, inputs = load_config(path), inputs_of(path)
    check_room(store, config, inputs, "float32", 1, "sample")
    monkeypatch.setattr(disk_estimate.shutil, "disk_usage", lambda path: Usage(10, 0, 10))
    with pytest.raises(ResourceError, match=r"round 1 sample will write about .*; 10 B are free at") as refused:
        check_room(store, config, inputs, "float32", 1, "sample")
    assert "storage.check_free_space=false" in refused.value.hint
    check_room(store, config, inputs, "float32", 1, "sample", force=True)
    unchecked = load_config(path, ["storage.check_free_space=false"])
    check_room(store, unchecked, inputs, "float32", 1, "sample")
