"""Reads from the log of a worker how it ended."""

from __future__ import annotations

from pathlib import Path

_WORKER = "selfplay/execution/ray/worker.py"
# How much is read of the end of a log, and of a line in it.
_TAIL_BYTES, _LINE_CHARACTERS = 1 << 18, 300


def log_tail(path: Path, start: int, *, is_hung: bool, lines: int = 5) -> str:
    """The end of a log as lines that follow a message: the frames of a hang or a crash, else its last lines. What is before the
    position `start` was written by an earlier worker."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(start, path.stat().st_size - _TAIL_BYTES))
        log = file.read().decode("utf-8", errors="replace").strip()
    frames = hang_frames(log, lines) if is_hung else []
    if frames:
        return "\n  its stack, innermost frame first:\n    " + "\n    ".join(frames)
    if crashed := crash_frames(log, lines):
        return f"\n  it crashed ({crashed[0]}), innermost frame first:\n    " + "\n    ".join(crashed[1:])
    tail = [line[:_LINE_CHARACTERS] for line in log.splitlines()[-lines:]]
    return ("\n  the last lines of its log:\n    " + "\n    ".join(tail)) if tail else ""


def crash_frames(log: str, lines: int) -> list[str]:
    """The fatal signal and the innermost frames, if a worker's log ends with faulthandler's report of one; else an empty list."""
    _, fatal, rest = log.rpartition("Fatal Python error: ")
    told = rest.splitlines()
    if not fatal or not told or not told[-1].startswith(("Extension modules: ", "  File ")):
        return []
    frames = [line.strip() for line in told if line.startswith("  File ")]
    return [told[0], *frames[:lines]]


def hang_frames(log: str, lines: int) -> list[str]:
    """The innermost frames of the call from the last stack dump (see heartbeat.py) in a worker's log; empty without one."""
    _, dumped, stacks = log.rpartition("Timeout (")
    if not dumped:
        return []
    for block in stacks.split("\n\n"):
        frames = [line.strip() for line in block.splitlines() if line.strip().startswith("File ")]
        at = [i for i, frame in enumerate(frames) if _WORKER in frame and frame.endswith((" in call", " in work"))]
        if at:
            return frames[: min(lines, at[0] + 1)]
    return []
