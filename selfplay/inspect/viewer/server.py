"""The viewer as a process: bound to the loopback, until Ctrl-C."""

from __future__ import annotations

import ipaddress
import socket
import sys
import threading
import webbrowser
from pathlib import Path

import uvicorn

from selfplay.core.errors import ConfigError, ResourceError
from selfplay.core.terminal import note, write
from selfplay.inspect.query.open import open_store
from selfplay.inspect.viewer.app import make_app
from selfplay.inspect.viewer.catalogue import kind_of


def serve(place: Path, host: str, port: int, *, open_browser: bool) -> None:
    """Serve until interrupted; the address goes to stdout. Raises ConfigError for a place or an address that cannot be served,
    ResourceError where the port is taken."""
    address = _loopback(host)
    # what is wrong with the place is said before a port is taken
    make_app(place, str(address))
    if kind_of(place) == "run":
        open_store(place)  # a run of a newer version; among other runs it is a line of the list
    listener = _bind(address, port)
    with listener:
        port = listener.getsockname()[1]
        shown = f"http://{f'[{address}]' if address.version == 6 else address}:{port}/"
        write(shown)
        sys.stdout.flush()
        note(f"{place} is served there, to this machine only, for reading; Ctrl-C stops it")
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
            f"--host {host} is not on the loopback: the viewer has no password and shows all texts of a run",
            "Leave it out, and from another machine forward the port: ssh -L 7357:127.0.0.1:7357 HOST",
        )
    return address


def _bind(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((str(address), port))
        listener.listen(128)  # who reads the address is answered, if late
    except OSError as error:
        listener.close()
        raise ResourceError(
            f"port {port} of {address} cannot be had: {error.strerror}",
            "Another viewer may have it. Take another: --port 0 finds one that is free.",
        ) from None
    return listener
