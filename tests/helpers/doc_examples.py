"""The examples of README.md and docs/: fenced code blocks, and the `selfplay` commands in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"), ROOT / "runs" / "README.md"]
)
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEREDOC = re.compile(r"<<'(\w+)'\n.*?^\1$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """A code block: `bash` runs as written on a quickstart run, `sh` has placeholders (or takes long)."""

    page: str
    line: int
    language: str
    text: str


def examples(page: Path) -> list[Example]:
    text = page.read_text(encoding="utf-8")
    return [
        Example(page.relative_to(ROOT).as_posix(), text[: match.start()].count("\n") + 1, match[1], match[2])
        for match in _BLOCK.finditer(text)
    ]


def all_examples() -> list[Example]:
    return [example for page in PAGES for example in examples(page)]


def commands(example: Example) -> list[list[str]]:
    """The words behind `selfplay` of each command in a shell block; `a|b` stands for the first of several."""
    script = _HEREDOC.sub("", example.text).replace("\\\n", " ")
    found = []
    for line in script.splitlines():
        words = shlex.split(line, comments=True)
        names = [index for index, word in enumerate(words) if word in ("selfplay", ".venv/bin/selfplay")]
        for index, end in zip(names, [*names[1:], len(words)][: len(names)], strict=True):
            arguments = words[index + 1 : end]
            if ";" in (joined := [word.rstrip(";") if word.endswith(";") else word for word in arguments]):
                joined = joined[: joined.index(";")]
            found.append([word for word in joined if word != "done"])
    return found
