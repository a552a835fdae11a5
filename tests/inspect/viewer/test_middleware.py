"""Who is answered at all: the Host, the method, the names of an address; and what every answer carries."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from selfplay.inspect.viewer.app import make_app
from selfplay.inspect.viewer.middleware import HEADERS
from tests.helpers.viewing import client_of


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7357", "127.0.0.1:7357.evil.example", "localhost.evil.example", "", "0.0.0.0:7357"]
)  # fmt: skip
def test_other_hosts_get_nothing(client: TestClient, host: str) -> None:
    answer = client.get("/run/whole", headers={"host": host})
    assert answer.status_code == 400
    assert "whole" not in answer.text
    assert answer.headers["content-security-policy"] == HEADERS["content-security-policy"]


@pytest.mark.parametrize("host", ["127.0.0.1:7357", "localhost:7357", "LOCALHOST:7357"])
def test_the_loopback_by_its_names(client: TestClient, host: str) -> None:
    assert client.get("/run/whole", headers={"host": host}).status_code == 200


def test_the_loopback_of_version_6(runs: Path) -> None:
    client = TestClient(make_app(runs, "::1"), base_url="http://[::1]:99")
    assert client.get("/").status_code == 200


def test_other_sites_may_link_here_and_no_more(client: TestClient) -> None:
    cross = {"sec-fetch-site": "cross-site"}
    assert client.get("/run/whole/round/1/download", headers={**cross, "sec-fetch-mode": "no-cors"}).status_code == 403
    assert client.get("/", headers={**cross, "sec-fetch-mode": "cors"}).status_code == 403
    assert client.get("/", headers={**cross, "sec-fetch-mode": "navigate"}).status_code == 200
    assert client.get("/", headers={"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
@pytest.mark.parametrize("path", ["/", "/run/whole", "/run/whole/round/1/download", "/static/style.css", "/nowhere"])
def test_it_only_shows(client: TestClient, method: str, path: str) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "path", ["/", "/run/whole/round/1/pairs", "/run/whole/round/1/download?format=csv", "/static/viewer.js"]
)
def test_head_has_no_body(client: TestClient, path: str) -> None:
    answer = client.head(path)
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    "path", ["/", "/run/whole", "/nowhere", "/run/nowhere", "/static/style.css", "/run/whole/round/1/download"]
)
def test_headers_of_every_answer(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert "set-cookie" not in answer.headers
    assert "server" not in answer.headers


def test_an_endless_address(client: TestClient) -> None:
    assert client.get(f"/?x={'y' * 9000}").status_code == 414


OUTSIDE = [
    "/run/..%2f..%2fetc", "/run/%2e%2e", "/run/../../etc/passwd", "/run/.", "/run/", "/run/%00", "/run/whole%00",
    "/run/whole/..%2fnasty", "/run/whole%2fRUN.json", "/run//etc", "/run/%2fetc%2fpasswd", "/run/chosen", "/select/whole",
    "/static/..%2fapp.py", "/static/../app.py", "/static/%2e%2e%2fguard.py", "/static/", "/static/templates",
    "/static/viewer.css",
    "/run/whole/round/..%2f..%2f", "/run/whole/round/1/../../RUN.json", "/run/whole/round/-1", "/run/whole/round/٣",
    "/run/whole/round/9999999999", f"/run/whole/round/{'9' * 6000}", "/run/whole/round/1e0", "/run/whole/round/1/select",
    "/run/whole/round/1/pair?id=../../../etc/passwd", "/run/whole/round/1/prompt?id=%2e%2e%2f", "/run/whole/against?id=../x",
    "/run/whole/round/1/pairs/../../../../etc/passwd", "/select/chosen/pair?id=/etc/passwd", "/run/whole/round/0/pairs",
    "/run/%E2%80%AE", "/run/whole/", "/run/begun/round/1/pairs",
]  # fmt: skip


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_name_of_an_address_is_a_path(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404, answer.text
    assert "root:" not in answer.text
    assert "Traceback" not in answer.text


def test_a_secret_beside_the_runs_is_not_served(runs: Path, tmp_path: Path) -> None:
    inside = tmp_path / "runs"
    inside.mkdir()
    (tmp_path / "secret.txt").write_text("swordfish")
    (inside / "notes.txt").write_text("swordfish")
    client = client_of(inside)
    for path in (
        "/",
        "/run/notes.txt",
        "/run/..%2fsecret.txt",
        "/static/..%2f..%2fsecret.txt",
        f"/run/{tmp_path}/secret.txt",
    ):
        assert "swordfish" not in client.get(path).text
    assert client.get("/").status_code == 200


def test_a_link_to_the_outside_in_a_stage_is_damage(tmp_path: Path) -> None:
    from tests.helpers.make_run import make_run

    store = make_run(tmp_path / "run", rounds=1)
    shard = store.layout.stage(1, "select") / "part-00000.parquet"
    moved = tmp_path / "elsewhere.parquet"
    shard.rename(moved)
    shard.symlink_to(moved)
    answer = client_of(tmp_path / "run").get("/run/run/round/1/pairs")
    assert answer.status_code == 500
    assert "part-00000.parquet" in answer.text
