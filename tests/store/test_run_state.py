"""The state of a run is derived in one place; every list says the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from selfplay.core.errors import CorruptionError
from selfplay.inspect.documents.progress import run_row
from selfplay.inspect.documents.runs import runs_document
from selfplay.inspect.documents.status import status_document
from selfplay.store.fork import Fork
from selfplay.store.run import Store
from tests.helpers.make_run import make_run


def test_a_missing_committed_file_is_corrupt_in_every_list(tmp_path: Path) -> None:
    store = make_run(tmp_path / "runs" / "one")
    part = next((store.layout.stage(1, "sample")).glob("part-*.parquet"))
    part.unlink()
    assert status_document(store.layout.root)["state"] == "corrupt"
    (line,) = runs_document(tmp_path / "runs")["runs"]
    assert line["state"] == "corrupt" and part.name in line["message"]
    with pytest.raises(CorruptionError, match=part.name):  # as the viewer's list asks
        run_row(Store.open(store.layout.root))


def test_pools_and_arms_of_a_comparison(tmp_path: Path) -> None:
    block = tmp_path / "cmp" / "runs" / "seed-1"
    for name in ("pool", "pool-0123abcd"):
        make_run(block / name, stop=(1, "logprobs"), outcome=None)
    make_run(block / "random", stop=(1, "logprobs"), outcome=None)
    (tmp_path / "cmp" / "compare.json").write_text("{}")
    lines = runs_document(tmp_path / "cmp")["runs"]
    assert {line["name"]: line["state"] for line in lines} == {
        "seed-1:pool": "pool", "seed-1:pool-0123abcd": "pool", "seed-1:random": "interrupted",
    }  # fmt: skip
    found = status_document(block / "pool")
    assert found["state"] == "pool"
    assert found["next"].endswith(f"selfplay status {tmp_path / 'cmp'}")


def test_a_fork_that_has_not_begun_says_so(tmp_path: Path) -> None:
    store = make_run(tmp_path / "run", stop=(1, "select"))
    files = {path.name: path.read_bytes() for path in store.layout.config.iterdir()}
    forked = Store.create(tmp_path / "fork", files, Fork(store.run_id, "../run", {}))
    assert status_document(forked.layout.root)["state"] == "not begun"
    assert "resume" in status_document(forked.layout.root)["next"]
    shutil.rmtree(tmp_path / "run")
    json.dumps(runs_document(tmp_path))


@pytest.mark.parametrize("name", ["rounds/001", "rounds/001/select"])
def test_a_link_in_a_run_is_corrupt_in_every_list(name: str, tmp_path: Path) -> None:
    root = make_run(tmp_path / "runs" / "one").layout.root
    (root / name).rename(tmp_path / "outside")
    (root / name).symlink_to(tmp_path / "outside")
    assert status_document(root)["state"] == "corrupt"
    (line,) = runs_document(tmp_path / "runs")["runs"]
    assert line["state"] == "corrupt" and f"{name} is a symbolic link" in line["message"]
