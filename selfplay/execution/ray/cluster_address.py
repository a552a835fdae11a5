"""The address of a cluster that is joined: what it must look like, and that a cluster beyond this machine is joined with a token
only: Ray executes code from anybody who reaches its ports."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from selfplay.core.errors import ConfigError

_ADDRESS = re.compile(
    r"(?:ray://)?(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})", re.ASCII
)


@dataclass(frozen=True, slots=True)
class ClusterAddress:
    """Host and port of "host:port" or "ray://host:port"; an IPv6 address is in brackets. Example:
    ClusterAddress("10.0.0.5", 6379)"""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> ClusterAddress | None:
        """None where the text is no such address, also one without a port."""
        found = _ADDRESS.fullmatch(text)
        if found is None or not 0 < int(found["port"]) < 65536:
            return None
        return cls(found["six"] or found["host"], int(found["port"]))

    @property
    def is_here(self) -> bool:
        """Whether it is an address of the loopback interface, in full, or the name localhost. No other name counts, whatever it
        resolves to now."""
        if self.host.lower() == "localhost":
            return True
        try:
            address = ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return address.is_loopback


def check_may_join(text: str) -> ClusterAddress:
    """The address, if the cluster may be joined. Raises ConfigError for an address without host or port, and for a cluster beyond
    this machine without a token. A user sets `RAY_AUTH_MODE=disabled` on a network that nobody else can reach."""
    address = ClusterAddress.parse(text)
    if address is None or not address.is_here:
        _need_token(text)
    if address is None:
        raise ConfigError(
            f"cluster.address is {text}, which is not the address of a cluster",
            "Give host and port: HOST:PORT or ray://HOST:PORT (10.0.0.5:6379, [fd00::5]:6379, ray://head:10001).",
        )
    return address


def _need_token(text: str) -> None:
    if os.environ.get("RAY_AUTH_MODE") == "disabled":
        return
    kept = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not os.environ.get("RAY_AUTH_TOKEN") and not kept.is_file():
        raise ConfigError(
            f"cluster.address is {text}, but there is no token to join it with",
            "Start the cluster with RAY_AUTH_MODE=token and give its token here (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or "
            "~/.ray/auth_token). On a network that nobody else can reach: RAY_AUTH_MODE=disabled. "
            "The address of a cluster is HOST:PORT or ray://HOST:PORT.",
        )
    os.environ.setdefault("RAY_AUTH_MODE", "token")


def check_reachable(address: ClusterAddress) -> None:
    """Raise OSError if nothing listens there: Ray itself would try for two minutes."""
    socket.create_connection((address.host, address.port), timeout=5).close()
