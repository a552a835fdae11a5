"""The application: addresses, static files, and an error page for every failure."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from selfplay.core.errors import ConfigError, SelfplayError
from selfplay.core.escape import escape_terminal
from selfplay.inspect.viewer.catalogue import Catalogue, NotServedError
from selfplay.inspect.viewer.middleware import guarded
from selfplay.inspect.viewer.pages import Pages
from selfplay.inspect.viewer.rendering import make_environment
from selfplay.inspect.web.pages import stylesheet

Endpoint = Callable[[Request], Response]


def make_app(place: Path, host: str) -> ASGIApp:
    """The viewer over a run, a folder of runs or a result of `select`, to be served under this address. Raises ConfigError."""
    pages = Pages(Catalogue.of(place), make_environment())
    static = _static_files()

    def file(request: Request) -> Response:
        found = static.get(request.path_params["file"])
        if found is None:
            raise HTTPException(404)
        kind, content = found
        return Response(content, media_type=kind)

    def at(path: str, endpoint: Endpoint) -> Route:
        return Route(path, _guarded(pages, endpoint), methods=["GET"])

    routes = [
        at("/", pages.index),
        at("/static/{file}", file),
        at("/run/{name}", pages.run),
        at("/run/{name}/against", pages.against),
        at("/run/{name}/round/{number}", pages.round),
        at("/run/{name}/round/{number}/pairs", pages.pairs),
        at("/run/{name}/round/{number}/pair", pages.pair),
        at("/run/{name}/round/{number}/prompt", pages.prompt),
        at("/run/{name}/round/{number}/download", pages.download),
        at("/select/{name}", pages.selection),
        at("/select/{name}/pairs", pages.pairs),
        at("/select/{name}/pair", pages.pair),
        at("/select/{name}/download", pages.download),
    ]

    async def refused(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        return _error(pages, status, "this page does not exist", "The first page lists the runs.")

    app = Starlette(routes=routes, exception_handlers={HTTPException: refused})
    app.router.redirect_slashes = False
    return guarded(app, host)


def _static_files() -> dict[str, tuple[str, str]]:
    """Name -> content type and content. They are read once: no name of an address is ever made into a path."""
    folder = resources.files("selfplay.inspect.viewer") / "static"
    own = {name: (folder / name).read_text(encoding="utf-8") for name in ("viewer.css", "viewer.js", "icon.svg")}
    return {
        "style.css": ("text/css", f"{stylesheet()}\n{own['viewer.css']}"),
        "viewer.js": ("text/javascript", own["viewer.js"]),
        "icon.svg": ("image/svg+xml", own["icon.svg"]),
    }


def _guarded(pages: Pages, endpoint: Endpoint) -> Endpoint:
    """The endpoint with every way to fail turned into a page."""

    def answer(request: Request) -> Response:
        try:
            return endpoint(request)
        except HTTPException:
            raise
        except NotServedError as error:
            return _error(pages, 404, error.message, error.hint)
        except SelfplayError as error:
            return _error(pages, 400 if isinstance(error, ConfigError) else 500, error.message, error.hint)
        except (FileNotFoundError, PermissionError) as error:
            # pyarrow names the file in the text alone
            what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            hint = "It was moved, deleted or made unreadable while the viewer was open. Restore it and reload the page."
            return _error(pages, 404 if isinstance(error, FileNotFoundError) else 403, f"cannot read {what}", hint)
        except Exception as error:
            _report(error)
            hint = "This is a bug in selfplay. Start it with SELFPLAY_DEBUG=1 selfplay view ... for the traceback."
            return _error(pages, 500, f"unexpected {type(error).__name__}", hint)

    return answer


def _report(error: Exception) -> None:
    """On the terminal: a line, or everything where that is asked for."""
    text = f"{type(error).__name__}: {error}"
    if os.environ.get("SELFPLAY_DEBUG") == "1":
        text = "".join(traceback.format_exception(error))
    sys.stderr.write(f"error: {escape_terminal(text, lines=True).rstrip()}\n")


def _error(pages: Pages, status: int, message: str, hint: str) -> Response:
    return pages.render("error.html", status, status=status, message=message, hint=hint)
