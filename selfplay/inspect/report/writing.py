"""A report as HTML, and the files that hold it: `report.html` and `README.md` of a run, derived and rebuilt at will."""

from __future__ import annotations

import functools
from importlib import resources
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from selfplay.inspect.documents.rounds_table import rounds_markdown, rounds_table
from selfplay.inspect.report.contents import Report
from selfplay.inspect.report.glossary import TERMS
from selfplay.inspect.web.pages import environment
from selfplay.selection.reasons import PAIR_REASONS, RESPONSE_REASONS
from selfplay.store.durable import write_file
from selfplay.store.run import Store

# what a step of the funnel counts those that it lost in
_LOST = {"admitted": "prompts", "scored": "responses", "paired": "responses in no pair", "kept": "pairs"}
REPORT, README = "report.html", "README.md"
_README_TEXT = """# {name}

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


def html(report: Report) -> str:
    """The page."""
    template = _environment().get_template("report.html")
    columns, rows = rounds_table(report.rows)
    return template.render(
        report=report, columns=columns, table_rows=rows, terms=TERMS, unit=_LOST,
        reasons={**RESPONSE_REASONS, **PAIR_REASONS},
    )  # fmt: skip


def readme(report: Report) -> str:
    """The text; no text of prompts and responses is in it."""
    return _README_TEXT.format(name=_plain(report.name), state=report.state, table=rounds_markdown(report.rows))


def write(store: Store, report: Report, out: Path | None = None) -> Path:
    """Write the page to `out`; without it to the run, with its README.md. Returns where the page is."""
    if out is not None:
        store.require_outside_run(out)
    page = html(report).encode()
    if out is not None:
        write_file(out.absolute(), page)
        return out
    store.write_derived(README, readme(report).encode())
    return store.write_derived(REPORT, page)


@functools.cache
def _environment() -> Environment:
    made = environment("selfplay.inspect.report")
    made.globals["report_css"] = Markup(
        (resources.files("selfplay.inspect.report") / "templates" / "report.css").read_text("utf-8")
    )
    return made


def _plain(name: str) -> str:
    """A folder's name as a heading: no sign that Markdown or HTML would read."""
    return "".join(letter if letter.isalnum() or letter in "-_. " else " " for letter in name).strip() or "A run"
