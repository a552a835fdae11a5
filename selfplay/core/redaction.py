"""Removes values of secrets from text that is shown or stored: a client's error may quote the key that it was called with."""

from __future__ import annotations

import functools
import json
import os
import re
from pathlib import Path
from typing import TextIO

# Names of environment variables whose values are secrets. Short values are switches, not secrets.
_SECRET_NAME = re.compile(r"TOKEN(?!IZERS)|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|CREDENTIAL", re.IGNORECASE)
_SHORTEST_SECRET = 8


def secrets() -> dict[str, str]:
    """Value -> name of the secrets in this process's environment."""
    return _secrets(tuple(sorted(os.environ.items())))


@functools.lru_cache(maxsize=4)
def _secrets(environment: tuple[tuple[str, str], ...]) -> dict[str, str]:
    # a path is where a secret is kept, not one
    return {
        value: name
        for name, value in environment
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET and not Path(value).is_absolute()
    }


def find_secret(text: str) -> str | None:
    """The name of a secret whose value the text holds, as it is or as JSON and YAML write it between quotes."""
    for value, name in secrets().items():
        written = {
            value,
            json.dumps(value)[1:-1],
            json.dumps(value, ensure_ascii=False)[1:-1],
            value.replace("'", "''"),
        }
        if any(form in text for form in written):
            return name
    return None


def drop_secret_env() -> None:
    """Take the secrets out of this process's environment; Ray's own stay."""
    for name in secrets().values():
        if not name.startswith("RAY_"):
            os.environ.pop(name, None)


def redact(text: str) -> str:
    """The text with `[NAME]` in the place of each value of a secret in the environment."""
    for value, name in sorted(secrets().items(), key=lambda item: -len(item[0])):
        if value in text:
            text = text.replace(value, f"[{name}]")
    return text


def text_of(error: BaseException) -> str:
    """What an exception says, whoever wrote its class: one whose text cannot be made says that, and what is no valid Unicode is
    escaped."""
    try:
        text = str(error)
    except BaseException as failed:  # a user's class may raise anything
        return f"(its text could not be made: {type(failed).__name__})"
    return text.encode("utf-8", "backslashreplace").decode()


class RedactingStream:
    """A text stream that leaves secrets out of what it is given, whole writes at a time."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redact(text))
        return len(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)
