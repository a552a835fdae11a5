"""Changing a run as somebody who hands it over may: files are changed, and sealed again so that every check of a digest holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selfplay.core.stages import STAGE_NAMES
from tests.helpers.sealing import rewrite


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def edit_table(run: Path, stage: str, change: Callable[[pa.Table], pa.Table], **options: Any) -> None:
    """Change a table of a stage ("001/select") and write it as Parquet with these options."""
    for path in sorted((run / "rounds" / stage).glob("part-*.parquet")):
        pq.write_table(change(pq.read_table(path, partitioning=None)), path, write_page_checksum=True, **options)
    reseal(run)


def edit_settings(run: Path, change: Callable[[dict[str, Any]], object], **files: Any) -> None:
    """Change the settings in force, and files of `config/` (name without .json -> value)."""
    for path in run.glob("attempts/*/attempt.json"):
        rewrite(path, lambda document: change(document["config"]))
    for name, value in files.items():
        (run / "config" / f"{name}.json").write_text(json.dumps(value))
    rewrite(run / "RUN.json", lambda document: document["config"].update(_digests(run / "config")))


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in sorted(folder.iterdir())}


def reseal(run: Path) -> None:
    """Make all commits fit the files beside them, and each other."""
    known: dict[str, str] = {}
    for round_folder in sorted((run / "rounds").iterdir()):
        for stage in STAGE_NAMES:
            commit = round_folder / stage / ".COMMIT.json"
            if commit.is_file():
                rewrite(commit, lambda document, folder=commit.parent: _seal(document, folder, known))  # type: ignore[misc]
                known[f"{round_folder.name}/{stage}"] = sha256(commit)


def _seal(document: dict[str, Any], folder: Path, known: dict[str, str]) -> None:
    document["inputs"] = {name: known.get(name, digest) for name, digest in document["inputs"].items()}
    for entry in document["files"]:
        path = folder / entry["path"]
        entry["num_bytes"], entry["sha256"] = path.stat().st_size, sha256(path)
        if entry["rows"] is not None:
            entry["rows"] = pq.read_metadata(path).num_rows
