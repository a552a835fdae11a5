"""`--trace FILE`: what the driver and its workers did, in the trace event format of Chrome, for https://ui.perfetto.dev.

One track for the driver's work on each stage and one for each worker. A slice is a time in which one part of the work went on
(see `core.timing`). The file is an array that grows stage by stage: viewers open it also where a killed run left it unfinished.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from selfplay.core.errors import ConfigError
from selfplay.core.observer import Observer
from selfplay.core.stages import STAGE_NAMES
from selfplay.core.timing import DRIVER, Record

_PID = 1


def require_new_file(path: Path) -> None:
    """Raise ConfigError unless a trace can be written to `path`."""
    folder = path.absolute().parent
    if path.exists() or path.is_symlink():
        raise ConfigError(f"--trace: {path} exists", "Give the name of a new file.")
    if not folder.is_dir():
        raise ConfigError(f"--trace: there is no folder {folder}", "Create it, or give another place.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"--trace: {folder} is not writable for you", "Give another place.")


class Trace(Observer):
    """Writes `path`, a new file. Times are microseconds of the Unix clock."""

    def __init__(self, path: Path, name: str) -> None:
        self._file = open(path, "x", encoding="utf-8")  # noqa: SIM115
        self._tracks: dict[str, int] = {}
        self._write("[\n", {"ph": "M", "name": "process_name", "args": {"name": name}})
        for stage in STAGE_NAMES:
            self._track(f"{DRIVER}: {stage}")

    def on_timing(self, round_number: int, stage: str, spent: Record) -> None:
        """The stage as one slice, the driver's parts inside it, and what the workers did."""
        track, where = self._track(f"{DRIVER}: {stage}"), {"round": round_number, "stage": stage}
        spans = spent.spans()
        end = max((span.end for span in spans if span.who == DRIVER), default=spent.began)
        self._slice(track, f"round {round_number} {stage}", spent.began, end, where)
        # slices of one track nest: those that begin first and end last come first
        for span in sorted(spans, key=lambda span: (span.begin, -span.end)):
            self._slice(track if span.who == DRIVER else self._track(span.who), span.part, span.begin, span.end, where)
        self._file.flush()

    def on_close(self) -> None:
        """The end of the array."""
        self._write("", {"ph": "M", "name": "process_sort_index", "args": {"sort_index": 0}}, "\n]\n")
        self._file.close()

    def _track(self, name: str) -> int:
        if name not in self._tracks:
            self._tracks[name] = len(self._tracks)
            self._write("", {"ph": "M", "name": "thread_name", "tid": self._tracks[name], "args": {"name": name}})
        return self._tracks[name]

    def _slice(self, track: int, name: str, begin: float, end: float, where: dict[str, Any]) -> None:
        duration = round(max(end - begin, 0.0) * 1e6)
        self._write(
            "", {"ph": "X", "name": name, "tid": track, "ts": round(begin * 1e6), "dur": duration, "args": where}
        )

    def _write(self, before: str, event: dict[str, Any], after: str = ",\n") -> None:
        self._file.write(f"{before}{json.dumps({'pid': _PID, **event})}{after}")
