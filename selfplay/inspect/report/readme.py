"""README.md of a run: its state, a table of its rounds, and commands that show more."""

from __future__ import annotations

from selfplay.inspect.documents.rounds_table import rounds_markdown
from selfplay.inspect.report.contents import Report

_TEXT = """# {name}

A run of `selfplay`, {state}.

{table}
Held-out numbers are of the policy after the round. `report.html` shows all of it.

    selfplay status .
    selfplay rounds .
    selfplay show . ROUND
    selfplay pairs . ROUND --content
    selfplay report .
    selfplay resume .

`rounds/NNN/STAGE/` holds the tables (Parquet) and policies, each with a `.COMMIT.json` that lists its files with sha256 and the
commits it was made from. This file and `report.html` are derived: they may be removed, and are written again.
"""


def readme(report: Report) -> str:
    """The text; no text of prompts and responses is in it."""
    return _TEXT.format(name=_plain(report.name), state=report.state, table=rounds_markdown(report.rows))


def _plain(name: str) -> str:
    """A folder's name as a heading: no sign that Markdown or HTML would read."""
    return "".join(letter if letter.isalnum() or letter in "-_. " else " " for letter in name).strip() or "A run"
