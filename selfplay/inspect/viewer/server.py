"""The viewer as a process: bound to the loopback, until Ctrl-C."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import threading
import webbrowser
from pathlib import Path

import uvicorn

from selfplay.core.errors import ConfigError, ResourceError
from selfplay.core.terminal import note, write
from selfplay.inspect.reading import open_store
from selfplay.inspect.viewer.app import make_app
from selfplay.inspect.viewer.catalogue import kind_of


def serve(place: Path, host: str, port: int, *, open_browser: bool) -> None:
    """Serve until interrupted; the address goes to stdout. Raises ConfigError for a place or an address that cannot be served,
    ResourceError where the port is taken."""
    address = _loopback(host)
    # Errors of the place are reported before a port is taken.
    make_app(place, str(address))
    if kind_of(place) == "run":
        open_store(place)  # a run of a newer version; among other runs it is a line of the list
    listener = _bind(address, port)
    with listener:
        port = listener.getsockname()[1]
        shown = f"http://{f'[{address}]' if address.version == 6 else address}:{port}/"
        write(shown)
        sys.stdout.flush()
        note(f"{place} is served to this machine only, read-only; Ctrl-C stops it")
        config = uvicorn.Config(
            make_app(place, str(address)),
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
        if open_browser:
            threading.Thread(target=webbrowser.open, args=(shown,), daemon=True).start()
        uvicorn.Server(config).run(sockets=[listener])


def _loopback(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address of a host, which must be on the loopback."""
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host.strip("[]"))
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        raise ConfigError(
            f"--host {host} is not a loopback address: the viewer has no password and shows all texts of a run",
            "Remove it; from another machine forward the port: ssh -L 7357:127.0.0.1:7357 HOST",
        )
    return address


def _bind(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> socket.socket:
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        # it listens at once: a request that comes before the server is up is answered late
        return socket.create_server((str(address), port), family=family, backlog=128)
    except OSError as error:
        raise ResourceError(
            f"port {port} of {address} is not available: {os.strerror(error.errno or 0)}",
            "Another viewer may use it; --port 0 takes a free one.",
        ) from None
