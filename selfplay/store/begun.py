"""The user's record of the runs that they started or trusted, and with which code. It is outside of all runs.

A run that somebody hands over can claim anything about itself, so the note is no part of it. It is one file in the user's state
folder (`$XDG_STATE_HOME/selfplay`, by default `~/.local/state/selfplay`), with one JSON line for each run: its id, and what names
the code that it runs (digests and functions). Nothing but the question for `--trust-code` depends on it, so it is appended to and
not fsynced.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from selfplay.core.errors import ConfigError

_PRIVATE_FOLDER, _PRIVATE_FILE = 0o700, 0o600


def note_file() -> Path:
    """Where the note is. Raises RuntimeError for a user without a home folder."""
    given = os.environ.get("XDG_STATE_HOME", "")
    base = Path(given) if Path(given).is_absolute() else Path.home() / ".local" / "state"
    return base / "selfplay" / "begun.jsonl"


def remember(name: str, code: Iterable[str]) -> str:
    """Note that this user has begun a run (its id) or trusts it, and what names its code. Returns why that could not be written;
    empty where it was."""
    line = json.dumps({"run": name, "code": sorted(set(code))}) + "\n"
    try:
        path = note_file()
        path.parent.mkdir(parents=True, exist_ok=True, mode=_PRIVATE_FOLDER)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, _PRIVATE_FILE)
        try:
            os.write(descriptor, line.encode())  # one write: two runs may begin at once
        finally:
            os.close(descriptor)
    except (OSError, RuntimeError) as error:
        return str(error)
    return ""


def code_begun(name: str) -> frozenset[str] | None:
    """What names the code that this user has run in a run; None for a run that is not in the note. Raises ConfigError where
    others can write the note."""
    try:
        path = note_file()
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (OSError, RuntimeError):
        return None
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ConfigError(
                f"{path} belongs to another user or can be written by others: it is not a safe record of your runs",
                "Delete it, or make it yours and private (chmod 600).",
            )
        entries = [entry for line in file if (entry := _entry(line)) and entry[0] == name]
    return frozenset(pin for _, code in entries for pin in code) if entries else None


def _entry(line: bytes) -> tuple[str, list[str]] | None:
    """A line of the note; None for what a crash left of one."""
    try:
        entry = json.loads(line)
        return str(entry["run"]), [str(pin) for pin in entry["code"]]
    except (ValueError, TypeError, KeyError):
        return None
