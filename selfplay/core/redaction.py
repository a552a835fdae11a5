"""Removes values of secrets from text that is shown or stored: a client's error may quote the key that it was called with."""

from __future__ import annotations

import functools
import json
import os
import re
from pathlib import Path
from typing import TextIO
from urllib.parse import quote, unquote

# Names of environment variables whose values are secrets. Short values are switches, not secrets.
_SECRET_NAME = re.compile(
    r"TOKEN(?!IZERS)|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|(API|ACCESS|PRIVATE)_?KEY|CONN(ECTION)?_?STR(ING)?|COOKIE|JWT"
    r"|BEARER|WEBHOOK|(?<![A-Z])(PAT|PASS|PWD|DSN)(?![A-Z])|_(AUTH|KEY)$",
    re.IGNORECASE,
)
# ... unless the variable says where or how a secret is kept
_NO_SECRET_NAME = re.compile(r"_(PATH|FILE|DIR|SOCK|MODE)$", re.IGNORECASE)
_SHORTEST_SECRET = 8
# the part of a URL between :// and @: a name and a password, or a token
_USERINFO = re.compile(r"(?<=://)[^\s/?#'\"<>\\]+@")
# the same in the value of a variable, where the password may have any character
_URL_WITH_PASSWORD = re.compile(r"://([^\s/:@]*):(\S+)@")


def secrets() -> dict[str, str]:
    """Value -> name of the secrets in this process's environment, each also as it is written between quotes and in URLs."""
    return _secrets(tuple(sorted(os.environ.items())))


@functools.lru_cache(maxsize=4)
def _secrets(environment: tuple[tuple[str, str], ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in environment:
        values = (
            [value] if _SECRET_NAME.search(name) and not _NO_SECRET_NAME.search(name) and not _is_path(value) else []
        )
        for url in _URL_WITH_PASSWORD.finditer(value):
            values += [value, url[2]]
        found |= {form: name for each in values if len(each) >= _SHORTEST_SECRET for form in _forms(each)}
    return found


def _is_path(value: str) -> bool:
    """Whether a value is a path: where a secret is kept, not one. (A secret in base64 may begin with a slash, too.)"""
    path = Path(value)
    return path.is_absolute() and len(path.parts) > 2 and path.parent.is_dir()


def _forms(value: str) -> set[str]:
    """A secret as it is, on one line, and as JSON, YAML, Python and URLs write it."""
    written = {value, " ".join(value.split()), json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    written |= {value.replace("'", "''"), repr(value)[1:-1], quote(value, safe=""), quote(value), unquote(value)}
    return {form for form in written if len(form) >= _SHORTEST_SECRET}


def find_secret(text: str) -> str | None:
    """What secret a text holds: the value of a variable in the environment, or a URL with a password. None: it has none."""
    for value, name in secrets().items():
        if value in text:
            return f"the value of the environment variable {name}"
    return "a URL with a password" if any(":" in found[0] for found in _USERINFO.finditer(text)) else None


def drop_secret_env() -> None:
    """Take the secrets out of this process's environment; Ray's own stay."""
    for name in {*secrets().values()}:
        if not name.startswith("RAY_"):
            os.environ.pop(name, None)


def redact(text: str) -> str:
    """The text with `[NAME]` in the place of each value of a secret in the environment, and without the names and passwords in
    URLs."""
    for value, name in sorted(secrets().items(), key=lambda item: -len(item[0])):
        if value in text:
            text = text.replace(value, f"[{name}]")
    return _USERINFO.sub("[credentials]@", text)


def text_of(error: BaseException) -> str:
    """The text of any exception. If its class fails to make one, the text says so. Invalid Unicode is escaped."""
    try:
        text = str(error)
    except BaseException as failed:  # a user's class may raise anything
        return f"(its text could not be made: {type(failed).__name__})"
    return text.encode("utf-8", "backslashreplace").decode()


class RedactingStream:
    """A text stream that replaces secrets in what is written to it, one write at a time."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redact(text))
        return len(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)
