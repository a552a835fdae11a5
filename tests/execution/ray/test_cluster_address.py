"""Which addresses are on this machine, and that every other one needs a token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from selfplay.core.errors import ConfigError
from selfplay.execution.ray.cluster_address import ClusterAddress, check_may_join


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # so that it is put back, whatever sets it
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    yield


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:6379", "127.0.0.1", 6379),
        ("127.8.9.1:6379", "127.8.9.1", 6379),
        ("ray://127.0.0.1:10001", "127.0.0.1", 10001),
        ("localhost:6379", "localhost", 6379),
        ("LocalHost:6379", "LocalHost", 6379),
        ("[::1]:6379", "::1", 6379),
        ("ray://[::1]:10001", "::1", 10001),
    ],
)
def test_addresses_of_this_machine_need_no_token(text: str, host: str, port: int) -> None:
    assert check_may_join(text) == ClusterAddress(host, port)


@pytest.mark.parametrize(
    "text",
    [
        "ray://sp.invalid:10001", "127.sp.invalid:6379", "ray://127.sp.invalid:10001", "ray://sp.invalid", "sp.invalid",
        "127.0.0.1.sp.invalid:6379", "localhost.sp.invalid:6379", "localhost@sp.invalid:6379",
        "127.0.0.1:6379@sp.invalid:6379", "ray://localhost", "localhost", "127.0.0.1", "[::1]", "::1", "::1:6379",
        "[::1].sp.invalid:6379", "127.0.0.1:6379/sp.invalid", "127.0.0.1:6379 sp.invalid:1", "127.0.0.1:0",
        "127.0.0.1:99999", "127.0.0.1:-1", "127.0.0.1:6379\n", " 127.0.0.1:6379", "127.1:6379", "0x7f000001:6379",
        "2130706433:6379", "0.0.0.0:6379", "10.9.8.7:6379", "[::ffff:10.0.0.1]:6379", "[fe80::1]:6379", ":6379",
        "http://127.0.0.1:6379", "RAY://127.0.0.1:10001", "anyscale://x", "auto", "local", "",
        "127.0.0.1:٦٣٧٩",
    ],
)  # fmt: skip
def test_every_other_address_needs_a_token(text: str) -> None:
    with pytest.raises(ConfigError, match="no token to join it with") as refused:
        check_may_join(text)
    assert "RAY_AUTH_TOKEN" in refused.value.hint


@pytest.mark.parametrize(
    "text", ["ray://sp.invalid", "sp.invalid", "auto", "local", "http://10.0.0.1:80", "10.0.0.1:0"]
)
def test_host_and_port_are_required(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a token of forty characters or so")
    with pytest.raises(ConfigError, match="not the address of a cluster") as refused:
        check_may_join(text)
    assert "HOST:PORT" in refused.value.hint


def test_a_token_in_any_of_its_places_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("a token of forty characters or so")
    assert check_may_join("sp.invalid:6379") == ClusterAddress("sp.invalid", 6379)
