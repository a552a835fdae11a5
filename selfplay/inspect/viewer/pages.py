"""The pages: each reads what its address names and fills a template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from jinja2 import Environment
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from selfplay.core.errors import ConfigError, SelfplayError
from selfplay.inspect.documents.progress import run_row
from selfplay.inspect.documents.rounds import round_summaries
from selfplay.inspect.documents.rounds_table import rounds_table
from selfplay.inspect.documents.status import status_document
from selfplay.inspect.viewer import browser, compare_rounds, select_folder
from selfplay.inspect.viewer.addresses import Addresses
from selfplay.inspect.viewer.catalogue import Catalogue, NotServedError, RunEntry
from selfplay.inspect.viewer.downloads import FORMS, download, file_name
from selfplay.inspect.viewer.prompt import prompt_document
from selfplay.inspect.viewer.query import one_of, pages_of, whole
from selfplay.inspect.viewer.rounds import round_document
from selfplay.inspect.viewer.rows import RowSet, row_set
from selfplay.store.driver_heartbeat import seconds_since_heartbeat
from selfplay.store.run import Store
from selfplay.store.run_state import config_in_force

LISTED = 50
"""Runs of a page of the list."""


@dataclass(frozen=True)
class Pages:
    """The endpoints of the viewer."""

    served: Catalogue
    environment: Environment

    def render(self, template: str, http_status: int = 200, **context: Any) -> Response:
        """A page."""
        at = {"single": self.served.is_single, "folder": self.served.place.name or "runs", "to": Addresses}
        return HTMLResponse(self.environment.get_template(template).render({**at, **context}), http_status)

    # ------------------------------------------------------------------ runs

    def index(self, request: Request) -> Response:
        """The list of runs; for a single run, its page."""
        entries = self.served.entries()
        if self.served.is_single and entries:
            return RedirectResponse(Addresses.home(entries[0].kind, entries[0].name), 303)
        num_pages, page, shown = pages_of(len(entries), LISTED, whole(request.query_params, "page", 1))
        lines = [self._line(entry) for entry in entries[shown]]
        return self.render("index.html", lines=lines, page=page, num_pages=num_pages, num_entries=len(entries))

    def _line(self, entry: RunEntry) -> dict[str, Any]:
        """A line of the list. Whatever is wrong with one run must not hide the others."""
        try:
            if entry.kind == "select":
                return {"entry": entry, "summary": select_folder.summary_of(entry)}
            return {"entry": entry, "row": run_row(self.served.store(entry))}
        except SelfplayError as error:
            return {"entry": entry, "problem": error.message, "hint": error.hint}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return {"entry": entry, "problem": f"it cannot be read ({type(error).__name__}: {error})", "hint": ""}

    def run(self, request: Request) -> Response:
        """The state of a run, and its rounds."""
        entry, store = self._run(request)
        status = status_document(entry.path)
        damaged, attempts = status["state"] == "corrupt", status["attempts"]
        rounds = [] if damaged else round_summaries(store)
        columns, cells = rounds_table(rounds)
        return self.render(
            "run.html",
            entry=entry,
            status=status,
            rounds=list(zip(rounds, cells, strict=True)),
            columns=columns,
            judge=next((row.eval_judge for row in reversed(rounds) if row.eval_judge), "reward"),
            progress=status["progress"],
            silent=seconds_since_heartbeat(store.layout.attempt(attempts[-1]["attempt"])) if attempts else None,
            comparable=[] if damaged else compare_rounds.rounds_with(store, "evaluation"),
            with_pairs=[] if damaged else [number for number in store.rounds() if store.is_committed(number, "select")],
        )

    def round(self, request: Request) -> Response:
        """One round as a whole."""
        entry, store, number = self._round(request)
        return self.render(
            "round.html", entry=entry, number=number, numbers=store.rounds(),
            **round_document(store, self.served.cache, self.served.later, number),
        )  # fmt: skip

    def prompt(self, request: Request) -> Response:
        """A prompt of a round with all its responses."""
        entry, store, number = self._round(request)
        document = prompt_document(store, number, _given(request, "id"))
        return self.render("prompt.html", entry=entry, number=number, **document)

    def against(self, request: Request) -> Response:
        """Round A against round B: the prompts, or one of them."""
        entry, store = self._run(request)
        cache, given = self.served.cache, request.query_params
        kind = cast(compare_rounds.Kind, one_of(given, "kind", ("evaluation", "training")))
        able = compare_rounds.rounds_with(store, kind)
        if not able:
            raise NotServedError(
                "this run has no rounds to compare yet", "Rounds can be compared once they are evaluated."
            )
        rounds = (whole(given, "a", able[0], 0), whole(given, "b", able[-1], 0))
        common: dict[str, Any] = {
            "entry": entry, "kind": kind, "able": able, "rounds": rounds, "diff": given.get("diff") != "off",
            "kinds": [name for name in ("evaluation", "training") if compare_rounds.rounds_with(store, name)],
        }  # fmt: skip
        if missing := [number for number in rounds if number not in able]:
            raise NotServedError(
                f"round {missing[0]} cannot be compared", f"Rounds that can: {', '.join(map(str, able))}."
            )
        if "id" in given:
            found = compare_rounds.prompt_document(store, cache, kind, rounds, given["id"], diff=common["diff"])
            return self.render("against_prompt.html", **common, **found)
        able_measures = compare_rounds.measures(store, cache, kind, rounds[0])
        measure = one_of(given, "by", able_measures)
        order = one_of(given, "order", compare_rounds.ORDERS)
        found = compare_rounds.list_document(store, cache, kind, rounds, measure, order, whole(given, "page", 1))
        return self.render(
            "against.html", **common, **found, measure=measure, order=order,
            measures={name: compare_rounds.MEASURES[name] for name in able_measures}, orders=compare_rounds.ORDERS,
        )  # fmt: skip

    # ------------------------------------------------------------------ pairs

    def pairs(self, request: Request) -> Response:
        """The pair browser."""
        entry, number, rows = self._pairs(request)
        query = browser.parse(rows, request.query_params)
        if "" in request.query_params.values():
            # a form sends its empty fields too: the address that is left to be shared says only what was set
            return RedirectResponse(Addresses.pairs(entry.name, number, query), 303)
        command, wrong = _command(entry, number), None
        try:
            found = browser.browse(rows, query, command)
        except ConfigError as error:
            if not query.where:
                raise
            # said beside its field; the page shows what the other filters leave
            found, wrong = browser.browse(rows, query.but(where=""), command), error
        return self.render(
            "pairs.html", 400 if wrong else 200, entry=entry, number=number, formats=FORMS, where=query.where, wrong=wrong,
            **found,
        )  # fmt: skip

    def pair(self, request: Request) -> Response:
        """One pair, with all responses of its prompt where it is a run's."""
        entry, number, rows = self._pairs(request)
        query = browser.parse(rows, request.query_params)
        found = browser.one(rows, query, _given(request, "id"))
        found["document"] = {"responses": []}
        prompt_id = found["card"].row.get("prompt_id")
        if number is not None and prompt_id is not None:  # a table of numbers has no prompts
            found["document"] = prompt_document(self.served.store(entry), number, prompt_id)
        return self.render("pair.html", entry=entry, number=number, **found)

    def download(self, request: Request) -> Response:
        """The filtered pairs as a file."""
        entry, number, rows = self._pairs(request)
        form = request.query_params.get("format", "jsonl")
        kind, pieces = download(rows, browser.parse(rows, request.query_params), form)
        name = file_name(entry.name if number is None else f"{entry.name}-round-{number:03d}-pairs", form)
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        if request.method == "HEAD":
            return Response(media_type=kind, headers=headers)
        return StreamingResponse(pieces, media_type=kind, headers=headers)

    def selection(self, request: Request) -> Response:
        """What `select` did."""
        entry = self.served.entry(request.path_params["name"], "select")
        rows = select_folder.pairs_of(entry, self.served.cache)
        return self.render("select.html", entry=entry, summary=select_folder.summary_of(entry), num_rows=rows.num_rows)

    # ------------------------------------------------------------------ what an address names

    def _run(self, request: Request) -> tuple[RunEntry, Store]:
        entry = self.served.entry(request.path_params["name"], "run")
        try:
            store = self.served.store(entry)
            config_in_force(store)
        except ConfigError as error:  # it is the run's fault, not that of the address
            raise SelfplayError(error.message, error.hint) from None
        return entry, store

    def _round(self, request: Request) -> tuple[RunEntry, Store, int]:
        entry, store = self._run(request)
        text = request.path_params["number"]
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 9 else -1
        if number not in store.rounds():
            present = ", ".join(map(str, store.rounds())) or "none yet"
            raise NotServedError(f"this run has no round {text}", f"Rounds: {present}.")
        return entry, store, number

    def _pairs(self, request: Request) -> tuple[RunEntry, int | None, RowSet]:
        """Of a round, or (number None) of a result of `select`."""
        if "number" not in request.path_params:
            entry = self.served.entry(request.path_params["name"], "select")
            return entry, None, select_folder.pairs_of(entry, self.served.cache)
        entry, store, number = self._round(request)
        if not store.is_committed(number, "select"):
            hint = (
                "Round 0 is the starting policy, which is only evaluated."
                if number == 0
                else "They come with the stage select."
            )
            raise NotServedError(f"round {number} has no pairs", hint)
        return entry, number, row_set(store, number, "select", self.served.cache)


def _command(entry: RunEntry, number: int | None) -> list[object]:
    return [] if number is None else ["pairs", entry.path, number]


def _given(request: Request, name: str) -> str:
    value = request.query_params.get(name)
    if value is None:
        raise ConfigError(f"the address has no {name}", f"Follow a link of the list: it ends with {name}=...")
    return value
