"""`selfplay view PLACE`: a run, a folder of runs or what `select` wrote, in the browser of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    place: Annotated[
        Path, typer.Argument(metavar="[RUN|RUNS|SELECTED]", help="A run, a folder of runs, or what `select` wrote.")
    ] = Path("runs"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 7357,
    host: Annotated[str, typer.Option(help="A loopback address of this machine; others are refused.")] = "127.0.0.1",
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
) -> None:
    """Show runs in a browser: rounds, pairs side by side.

    The viewer is read-only and serves only this machine. On a remote machine, forward the port: ssh -L 7357:127.0.0.1:7357 HOST.
    """
    from selfplay.inspect.viewer.server import serve

    serve(place, host, port, open_browser=open_browser)
