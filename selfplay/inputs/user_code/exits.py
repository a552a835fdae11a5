"""Code of a user or of a model that runs in the process of the command cannot end it in silence.

`os._exit` ends a process at once and without a message, with exit code 0 if the function says so. Workers may end like that
(they are replaced, see execution/quarantine.py), but the command itself must not.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Never

from selfplay.core.errors import ModelError, SelfplayError
from selfplay.core.raised_at import raised_at
from selfplay.core.redaction import text_of


@contextlib.contextmanager
def exits_are_errors() -> Iterator[None]:
    """Inside, `os._exit` raises SystemExit, which the callers of user code report with file and line."""
    before = os._exit
    os._exit = _raise
    try:
        yield
    finally:
        os._exit = before


def _raise(status: int) -> Never:
    raise SystemExit(status)


@contextlib.contextmanager
def model_code(setting: str, *, runs: bool) -> Iterator[None]:
    """Around what may run a model's own code. `setting` names the model; `runs`: whether its `trust_remote_code` is set. The code
    prints to stderr, since stdout is for data. Whatever it raises, an exit too, becomes a ModelError."""
    with contextlib.redirect_stdout(sys.stderr), exits_are_errors():
        try:
            yield
        except (SelfplayError, KeyboardInterrupt):
            raise
        except BaseException as error:
            if not runs:
                raise
            raise ModelError(
                f"{setting}: the model's own code fails: {type(error).__name__}: {text_of(error)}{raised_at(error)}",
                "Correct the code in the model's repository, or set trust_remote_code: false if transformers knows the model.",
            ) from error
