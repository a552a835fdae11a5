"""Commands in messages. Names in them may come from somebody else, so every command is quoted for a shell here."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import PurePath


def shell_command(*words: object) -> str:
    """A `selfplay` command with these words, as a shell reads it: pasted, each word is one argument and runs nothing.

    Example: shell_command("resume", Path("my run"), "rounds=3") is "selfplay resume 'my run' rounds=3".
    """
    return shlex.join([_program(), *map(_word, words)])


def _word(word: object) -> str:
    text = str(word)
    # a path that begins with a dash would be read as an option
    return f"./{text}" if isinstance(word, PurePath) and text.startswith("-") else text


def _program() -> str:
    """How this program was called: a bare name only where that would be found."""
    called = sys.argv[0]
    if shutil.which("selfplay") or not called.endswith("selfplay"):
        return "selfplay"
    relative = os.path.relpath(called)
    return relative if not relative.startswith("..") else called
