"""Inside a child that is to be killed: every operation on the case's files is a failpoint, and so is each stage edge, each call
of a backend and each training step. What happened is noted outside the run, unbuffered, so that a SIGKILL loses no note.

The os functions are replaced, not only the store's own seam (`durable.operations`): what goes past that seam is killed as well.
A failpoint is reached *before* its operation (after it is before the next one); writing a file is one more in the middle of the
data: half of them are written, then the signal comes. fsync is noted and not carried out: a killed process loses no page of the
kernel's, and what a power cut may lose is the subject of the crash-state tests of the store.
"""

# ruff: noqa: PTH109, PTH115, PTH118
from __future__ import annotations

import builtins
import io
import json
import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from selfplay.core.stages import STAGE_NAMES
from selfplay.execution.progress import Reporter
from selfplay.run import loop
from selfplay.store.commits import read_commit
from selfplay.store.writer import StageWriter

# instead of a label: the n-th failpoint, whatever it is
ANY = "*"


class Failpoints:
    """Notes into the file `notes`; sends `kill["signals"]` to this process (or its group) the `kill["occurrence"]`-th time that
    `kill["label"]` is reached, and `kill["then"]` as many failpoints later as `kill["later"]` says."""

    def __init__(self, root: str, notes: str, kill: dict[str, Any] | None) -> None:
        self._root = os.path.realpath(root)
        self._notes = _OS["open"](notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._kill = kill
        self._seen: Counter[str] = Counter()
        self._number = 0
        self._due: dict[int, list[str]] = {}

    def note(self, *words: Any) -> None:
        """One line; on disk when this returns, as far as a kill is concerned."""
        os.write(self._notes, (json.dumps(words) + "\n").encode())

    def _is_due(self, label: str) -> Sequence[str]:
        self._number += 1
        self._seen[label] += 1
        self.note("point", label)
        kill = self._kill
        here = kill and (self._number if kill["label"] == ANY else self._seen[label] if kill["label"] == label else 0)
        if kill and here == kill["occurrence"]:
            if kill.get("then"):
                self._due[self._number + kill["later"]] = kill["then"]
            return list(kill["signals"])
        return self._due.pop(self._number, ())

    def reached(self, label: str, halfway: Callable[[], object] | None = None) -> None:
        """A failpoint; `halfway` is done first where SIGKILL is due here (after another signal the operation goes on)."""
        if due := self._is_due(label):
            if halfway is not None and "KILL" in due:
                halfway()
            for name in due:
                self.note("signal", name, label)
                os.kill(os.getpid(), signal.Signals[f"SIG{name}"])

    def place(self, path: Any, dir_fd: int | None = None) -> str | None:
        """A path as labels name it, numbers made equal; None for what is not the case's."""
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        else:
            base = os.readlink(f"/proc/self/fd/{dir_fd}") if dir_fd is not None else os.getcwd()
            path = os.path.normpath(os.path.join(base, os.fspath(path)))
        if not path.startswith(self._root + "/"):
            return None
        return re.sub(r"\d+", "N", path[len(self._root) + 1 :])

    # ------------------------------------------------------------------ what is replaced

    def install(self) -> None:
        """From here on every operation of this process is a failpoint."""
        for name in ("mkdir", "rmdir", "unlink", "remove"):
            setattr(os, name, self._one_path(name))
        for name in ("rename", "replace", "link", "symlink"):
            setattr(os, name, self._two_paths(name))
        os.fsync = os.fdatasync = lambda descriptor: self._at("fsync", descriptor)  # type: ignore[assignment]
        os.ftruncate = self._one_path("ftruncate")
        os.open = self._os_open
        builtins.open = io.open = self._open  # type: ignore[assignment]
        self._watch_stages()

    def _at(self, operation: str, path: Any, dir_fd: int | None = None) -> None:
        if (place := self.place(path, dir_fd)) is not None:
            self.reached(f"{operation} {place}")

    def _one_path(self, name: str) -> Callable[..., Any]:
        real = _OS[name]

        def operation(path: Any, *arguments: Any, dir_fd: int | None = None, **others: Any) -> Any:
            self._at(name, path, dir_fd)
            return real(path, *arguments, **others) if dir_fd is None else real(path, *arguments, dir_fd=dir_fd)

        return operation

    def _two_paths(self, name: str) -> Callable[..., Any]:
        real = _OS[name]

        def operation(source: Any, target: Any, *arguments: Any, **others: Any) -> Any:
            self._at(name, target)
            return real(source, target, *arguments, **others)

        return operation

    def _os_open(self, path: Any, flags: int, *arguments: Any, **others: Any) -> int:
        if flags & os.O_CREAT:
            self._at("open", path)
        return int(_OS["open"](path, flags, *arguments, **others))

    def _open(self, path: Any, mode: str = "r", buffering: int = -1, *arguments: Any, **others: Any) -> Any:
        place = self.place(path) if not isinstance(path, int) and mode in ("wb", "xb", "bw") else None
        if place is None:
            return _OPEN(path, mode, buffering, *arguments, **others)
        self.reached(f"open {place}")
        raw = _Torn(path, mode, self, f"write {place}")
        return raw if buffering == 0 else io.BufferedWriter(raw)

    def _watch_stages(self) -> None:
        """Stage edges, and what is acknowledged: a shard that is kept, a stage that is committed."""
        points = self
        write_shard, commit, stage = StageWriter.write_shard, StageWriter.commit, Reporter.stage

        def kept(self: StageWriter, *arguments: Any, **others: Any) -> None:
            before = set(self._entries)
            write_shard(self, *arguments, **others)
            for name in sorted(set(self._entries) - before):
                points.note("kept", f"{self.round:03d}/{self.stage}/{name}", self._entries[name].sha256)
            points.reached(f"kept a shard of {self.stage}")

        def committed(self: StageWriter, *arguments: Any, **others: Any) -> Any:
            points.reached(f"before the commit of {self.stage}")
            done = commit(self, *arguments, **others)
            points.note("committed", f"{self.round:03d}/{self.stage}", read_commit(self._target)[1])
            points.reached(f"after the commit of {self.stage}")
            return done

        def begins(self: Reporter, round_number: int, name: str) -> None:
            points.reached(f"{name} begins")
            stage(self, round_number, name)

        StageWriter.write_shard, StageWriter.commit = kept, committed  # type: ignore[method-assign]
        Reporter.stage = begins  # type: ignore[method-assign]
        for name in STAGE_NAMES:
            loop.function_of(name)  # imported before its operations are counted


class _Torn(io.FileIO):
    """A file being written in which a kill leaves half of the data."""

    def __init__(self, path: Any, mode: str, points: Failpoints, label: str) -> None:
        super().__init__(path, mode)
        self._points, self._label = points, label

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._points.reached(self._label, lambda: os.write(self.fileno(), view[: len(view) // 2]))
        return int(super().write(data) or 0)


_OPEN = builtins.open
_OS = {
    name: getattr(os, name)
    for name in ("mkdir", "rmdir", "unlink", "remove", "rename", "replace", "link", "symlink", "ftruncate", "open")
}
