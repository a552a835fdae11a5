"""Tries foreign code in a process of its own before this process runs it: nothing there can evade the limits of time and memory.

A chat template can multiply a text by a billion in one call into C, which no limit inside the process stops.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from selfplay.core.errors import ModelError
from selfplay.inputs.models import chat_template
from selfplay.inputs.models.chat import ChatRenderer
from selfplay.inputs.user_code.exits import model_code

MOST_BYTES = 1 << 30
_PAGE = os.sysconf("SC_PAGE_SIZE")
_LOOK_MS = 50


def tried_renderer(
    name: str,
    tokenizer: Any,
    template: str | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    own_code: bool = False,
) -> ChatRenderer:
    """The renderer of these arguments (see ChatRenderer), whose template keeps the limits with the messages that a renderer
    begins with. `name` is the setting that names the model, `own_code`: whether the tokenizer may be the model's own code. Raises
    ModelError where a limit is broken or such code fails."""
    guard = partial(model_code, name, runs=own_code)
    try_template(name, lambda: ChatRenderer(tokenizer, template, kwargs))
    with guard():
        return ChatRenderer(tokenizer, template, kwargs, guard)


def try_template(name: str, render: Callable[[], object]) -> None:
    """Raise ModelError if `render`, which runs a chat template, breaks a limit. What it raises is not looked at: the caller calls
    it again."""
    seconds = chat_template.SECONDS
    broken = limit_broken(render, seconds, MOST_BYTES)
    if broken is not None:
        said = {
            "time": f"does not end: {seconds:g} seconds were not enough",
            "memory": f"needs more than {MOST_BYTES >> 20} MiB of memory",
        }
        raise ModelError(
            f"{name}: the chat template {said[broken]}", "Correct the template, or give another chat_template."
        )


def limit_broken(function: Callable[[], object], seconds: float, num_bytes: int) -> str | None:
    """Call a function in a child process; returns "time" or "memory" if it needs more than this, and is ended for it."""
    before, started = _own_bytes(os.getpid()), time.monotonic()
    end, held = os.pipe()
    child = os.fork()
    if child == 0:
        _call_and_die(function)
    os.close(held)
    ended, end_of_child = False, select.poll()
    end_of_child.register(end)  # the kernel closes the child's side
    try:
        while not ended:
            end_of_child.poll(_LOOK_MS)
            # by its peak the child is judged also where it was faster than this loop
            found, _, usage = os.wait4(child, os.WNOHANG)
            ended = found == child
            used = usage.ru_maxrss * 1024 if ended else _own_bytes(child)
            if used - before > num_bytes:
                return "memory"
            if not ended and time.monotonic() - started > seconds:
                return "time"
        return None
    finally:
        os.close(end)
        if not ended:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _call_and_die(function: Callable[[], object]) -> None:
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        with contextlib.suppress(BaseException):  # the caller finds it again
            function()
    finally:
        os.kill(os.getpid(), signal.SIGKILL)  # no handler or buffer of the parent's takes part in the end


def _own_bytes(process: int) -> int:
    """Resident memory of a process without what it maps from files, of which a child begins with less than its parent."""
    try:
        with open(f"/proc/{process}/statm") as file:
            _, resident, mapped, *_ = map(int, file.read().split())
            return (resident - mapped) * _PAGE
    except (OSError, ValueError):  # it has ended
        return 0
