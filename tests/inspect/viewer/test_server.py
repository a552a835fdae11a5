"""`selfplay view` as a process: it says its address, answers, and ends with Ctrl-C without a word."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from selfplay.cli.main import app
from tests.helpers.viewing import client_of

HEAVY = ("torch", "vllm", "ray", "transformers", "datasets", "trl", "peft")
PATHS = ("", "run/whole", "run/whole/round/1", "run/whole/round/1/pairs", "select/chosen/pairs", "run/whole/against")


def raw(address: str, path: str) -> bytes:
    """The answer to a path that no client would send as it is."""
    name, port = address.removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((name, int(port)), timeout=120) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {name}:{port}\r\nConnection: close\r\n\r\n".encode())
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_it_serves_until_interrupted_and_imports_nothing_heavy(runs: Path) -> None:
    # on the way out the process says which heavy libraries it holds
    program = (
        "import atexit, sys\n"
        f"atexit.register(lambda: sys.stderr.write('heavy: ' + ' '.join(n for n in {HEAVY} if n in sys.modules) + '.\\n'))\n"
        "from selfplay.cli.main import main\nmain()"
    )
    command = [sys.executable, "-c", program, "view", str(runs), "--port", "0", "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:")
            for path in PATHS:
                with urllib.request.urlopen(address + path, timeout=120) as answer:
                    assert answer.status == 200
                    assert "set-cookie" not in answer.headers
                    assert b"selfplay" in answer.read()
            for path in (
                "/run/../../../../etc/passwd",
                "//etc/passwd",
                "/run/%2e%2e/etc",
                "/static/../app.py",
            ):
                assert b"root:" not in raw(address, path)
                assert raw(address, path).split()[1] in (b"404", b"421")
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode in (0, 130)
    assert "Traceback" not in said
    assert "heavy: ." in said


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "example.org", "::", ""])
def test_only_the_loopback_is_served(runs: Path, host: str) -> None:
    done = CliRunner().invoke(app, ["view", str(runs), "--host", host, "--no-open", "--port", "0"])
    assert done.exit_code == 2
    assert "loopback" in done.stderr
    assert "ssh -L" in done.stderr


def test_a_place_and_a_port_that_cannot_be_had(runs: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["view", str(tmp_path / "nowhere"), "--no-open"])
    assert (done.exit_code, "there is no folder" in done.stderr) == (2, True)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = CliRunner().invoke(app, ["view", str(runs), "--port", str(port), "--no-open"])
    assert (done.exit_code, "--port 0" in done.stderr) == (1, True)


def test_no_file_of_a_run_is_written(runs: Path) -> None:
    def state() -> dict[Path, tuple[int, int]]:
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in runs.rglob("*")}

    before = state()
    client = client_of(runs)
    for path in (
        "/",
        "/run/whole",
        "/run/whole/round/1",
        "/run/whole/round/1/pairs?q=x",
        "/run/whole/against",
        "/select/chosen",
    ):
        assert client.get(path).status_code == 200
    assert state() == before
