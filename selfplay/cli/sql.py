"""`selfplay sql RUN "SELECT ..."`: a query over all tables of a run."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from selfplay.cli.arguments import Json, Run
from selfplay.core.escape import csv_cell, escape_terminal
from selfplay.core.format import number
from selfplay.core.terminal import clip, note, open_stdout, table, write, write_json, writing_stdout

FORMATS = ("table", "csv", "json")
_LONGEST_CELL = 60


def command(
    run: Run,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="One SELECT.")],
    output: Annotated[str, typer.Option("--format", metavar="FORMAT", help=" | ".join(FORMATS))] = "table",
    limit: Annotated[int, typer.Option(min=0, help="Maximum number of rows; 0: all.")] = 1000,
    json_output: Json = False,
) -> None:
    """Query the tables of a run in SQL (DuckDB, read-only).

    Tables, over all rounds, each with a column round: prompts, responses, rewards, unused, logprobs, pairs, evaluation, and
    rounds with what `rounds` shows. `describe pairs` lists columns. A query sees only these tables.
    """
    from selfplay.core.errors import ConfigError
    from selfplay.inspect.query.sql import sql_document
    from selfplay.inspect.reading import open_store

    if output not in FORMATS:
        raise ConfigError(f"--format {output!r} is unknown", f"Formats: {', '.join(FORMATS)}.")
    document = sql_document(open_store(run), query, limit or None)
    if json_output or output == "json":
        write_json(document)
    elif output == "csv":
        _write_csv(document)
    else:
        write(_table(document))
    if document["more"]:
        note(f"the first {limit} rows are shown; --limit 0 shows all")


def _table(document: dict[str, Any]) -> str:
    if document["columns"][0]["name"] == "explain_key":
        return "\n".join(escape_terminal(str(row[1]), lines=True) for row in document["rows"])
    names = [escape_terminal(column["name"]).replace("/", "\u2215") for column in document["columns"]]
    rows = [[clip(_cell(value), _LONGEST_CELL) for value in row] for row in document["rows"]]
    text = [index for index, column in enumerate(document["columns"]) if column["type"].upper() in ("VARCHAR", "UUID")]
    return table(names, rows, left=text)


def _cell(value: Any) -> str:
    return escape_terminal(json.dumps(value, ensure_ascii=False)) if isinstance(value, (list, dict)) else number(value)


def _write_csv(document: dict[str, Any]) -> None:
    """CSV as the viewer writes it: lists and structs are JSON in their cell, and no text is a formula (JSON is exact)."""
    on_screen = sys.stdout.isatty()

    def cell(value: Any) -> Any:
        return csv_cell(escape_terminal(value, lines=True) if on_screen and isinstance(value, str) else value)

    def line(values: Iterable[Any]) -> str:
        row = io.StringIO()
        # with its own line end it quotes a text that has either character of it
        csv.writer(row).writerow([cell(value) for value in values])
        return row.getvalue().removesuffix("\r\n") + "\n"

    with writing_stdout():
        stdout = open_stdout()
        stdout.write(line(column["name"] for column in document["columns"]))
        stdout.writelines(map(line, document["rows"]))
