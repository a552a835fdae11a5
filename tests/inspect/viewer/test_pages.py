"""Every page over small runs: what it says, that every link leads somewhere, and that hostile texts stay texts."""

from __future__ import annotations

import html
import json
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urljoin, urlsplit

import pytest
from starlette.testclient import TestClient

from selfplay.inspect.viewer import rounds
from selfplay.store import driver_heartbeat
from selfplay.store.lock import RunLock
from tests.helpers.make_run import make_run
from tests.helpers.sealing import rewrite
from tests.helpers.viewing import BASE, client_of

Get = Callable[[str], str]


class Page(HTMLParser):
    """Elements with their attributes, and the ids, labels and links that they make."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def links(self) -> Iterator[str]:
        for tag, attributes in self.elements:
            if tag == "a" and attributes.get("href"):
                yield str(attributes["href"])

    @property
    def text(self) -> str:
        return "".join(self.words)


@pytest.fixture(scope="module")
def crawled(client: TestClient) -> dict[str, Page]:
    """Every page that a link leads to, by its address."""
    pages: dict[str, Page] = {}
    seen: Counter[tuple[str, ...]] = Counter()
    waiting = ["/"]
    while waiting:
        path = waiting.pop()
        parts = urlsplit(path)
        # a few of each sort of page, not each page of each list
        sort = (re.sub(r"\d+", "N", parts.path), *sorted(name for name, _ in parse_qsl(parts.query)))
        if path in pages or seen[sort] >= 2:
            continue
        seen[sort] += 1
        answer = client.get(path)
        assert answer.status_code == 200, f"{path}: {Page(answer.text).text}"
        if not answer.headers["content-type"].startswith("text/html"):
            continue
        page = pages[path] = Page(answer.text)
        for link in page.links():
            target = urlsplit(urljoin(BASE + path, link))
            assert target.netloc == urlsplit(BASE).netloc, f"{path} links to {link}"
            waiting.append(target.path + (f"?{target.query}" if target.query else ""))
    return pages


def test_every_link_of_every_page_leads_somewhere(crawled: dict[str, Page]) -> None:
    kinds = {re.sub(r"\d+", "N", urlsplit(path).path) for path in crawled}
    run = "/run/whole"
    assert kinds >= {
        "/", run, f"{run}/against", f"{run}/round/N", f"{run}/round/N/pairs", f"{run}/round/N/pair", f"{run}/round/N/prompt",
        "/select/chosen", "/select/chosen/pairs", "/select/chosen/pair",
    }  # fmt: skip


def test_pages_can_be_used_without_seeing_or_pointing(crawled: dict[str, Page]) -> None:
    for path, page in crawled.items():
        tags = [tag for tag, _ in page.elements]
        assert tags.count("h1") == 1, path
        assert ("a", {"class": "skip", "href": "#main"}) in page.elements, path
        assert ("main", {"id": "main"}) in page.elements, path
        assert dict(page.elements)["html"] == {"lang": "en"}, path
        ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
        assert len(ids) == len(set(ids)), path
        for tag, attributes in page.elements:
            assert "style" not in attributes, path
            assert not any(name.startswith("on") for name in attributes), path
            if tag == "th":
                assert attributes.get("scope") in ("col", "row"), path
            if tag == "svg":
                assert attributes.get("role") == "img", path
            for name in ("aria-labelledby", "aria-describedby"):
                for word in (attributes.get(name) or "").split():
                    assert word in ids, f"{path}: {name}={word}"
        assert sum(attributes.get("aria-current") == "page" for _, attributes in page.elements) >= 1, path


def test_every_field_has_a_label(get: Get) -> None:
    text = get("/run/whole/round/1/pairs")
    for field in re.findall(r"<(?:input|select)\b[^>]*>", text):
        assert "aria-label" in field or re.search(r"<label>[^<]*" + re.escape(field), text), field


def test_the_list_names_everything(get: Get) -> None:
    text = get("/")
    for name in ("whole", "nasty", "begun", "chosen"):
        assert f"<bdi>{name}</bdi>" in text
    assert "complete" in text
    assert "round 1, select" in text
    assert "4 of 10 pairs of pairs.jsonl" in Page(text).text


def test_a_single_run_is_its_own_first_page(runs: Path) -> None:
    client = client_of(runs / "whole")
    answer = client.get("/")
    assert (answer.status_code, answer.headers["location"]) == (303, "/run/whole")
    assert client.get("/run/whole").status_code == 200
    assert client.get("/run/nasty").status_code == 404
    assert client_of(runs / "chosen").get("/").headers["location"] == "/select/chosen"


def test_a_run_and_its_rounds(get: Get) -> None:
    page = Page(get("/run/whole"))
    assert "complete" in page.text
    assert "Round 0 against round 2" in page.text
    assert "refresh" not in get("/run/whole")
    text = Page(get("/run/whole/round/1")).text
    for words in (
        "From prompts to kept pairs",
        "not_extreme",
        "Alignment potential",
        "Held-out evaluation",
        "The cut is at",
    ):
        assert words in text
    assert "starting policy" in Page(get("/run/whole/round/0")).text


def test_a_run_under_way_says_how_far_it_is(tmp_path: Path) -> None:
    store = make_run(tmp_path / "live", stop=(1, "score"), outcome=None)
    events = store.layout.attempt(1) / "events.jsonl"
    lines = [{"event": "stage", "round": 1, "stage": "score"}, {"event": "loading", "what": "scorer <b>"}]
    lines.insert(1, {"event": "progress", "title": "round 1 score <b>", "done": 30, "total": 44})
    lines.append({"event": "overlap", "stages": [], "text": "stages take turns: <b>"})
    events.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"event": "prog')
    (store.layout.attempt(1) / driver_heartbeat.NAME).touch()
    with RunLock(store.layout.lock):
        text = client_of(tmp_path / "live").get("/run/live").text
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in text
    assert 'data-live="4"' in text
    assert '<progress id="progress" max="44" value="30">' in text
    assert "round 1 score &lt;b&gt;" in text
    assert "loading: <bdi>scorer &lt;b&gt;</bdi>" in text
    assert "order: <bdi>stages take turns: &lt;b&gt;</bdi>" in text
    assert re.search(r"Last heartbeat</dt><dd>\d+ s ago", text)
    with RunLock(store.layout.lock):
        events.write_text("".join(json.dumps(line) + "\n" for line in reversed(lines)))
        assert "<progress" not in client_of(tmp_path / "live").get("/run/live").text, "of a stage before"
        events.write_bytes(b"\xff\xfe\n[]\n" + json.dumps({**lines[1], "done": "x"}).encode())
        assert "<progress" not in client_of(tmp_path / "live").get("/run/live").text


def test_pairs_side_by_side(get: Get) -> None:
    text = get("/run/whole/round/1/pairs")
    page = Page(text)
    assert text.count("<article") == 10
    assert "<mark>" in text
    assert "1 to 10 of 11 pairs" in page.text
    assert "Page 1 of 2" in page.text
    assert "<mark>" not in get("/run/whole/round/1/pairs?diff=off")
    second = get("/run/whole/round/1/pairs?page=2")
    assert second.count("<article") == 1
    assert get("/run/whole/round/1/pairs?page=99").count("<article") == 1, "a page behind the last is the last"
    assert get("/run/whole/round/1/pairs?size=25").count("<article") == 11


def test_filters_say_what_they_do(get: Get) -> None:
    text = get("/run/whole/round/1/pairs?kept=yes&min.explicit_margin=0.1&where=num_tokens_chosen+%3E+1")
    page = Page(text)
    assert "0.1 ≤ explicit_margin" in page.text
    assert "selfplay pairs" in page.text
    assert "kept AND explicit_margin >= 0.1 AND num_tokens_chosen > 1" in page.text
    assert re.search(r"\d+ of 11 pairs match; from", page.text)
    assert Page(get("/run/whole/round/1/pairs?q=zzzz")).text.count("No pair matches") == 1
    value = next(a for tag, a in page.elements if tag == "input" and a.get("name") == "min.explicit_margin")
    assert value["value"] == "0.1"


def test_an_address_that_a_form_made_becomes_a_short_one(client: TestClient) -> None:
    answer = client.get(
        "/run/whole/round/1/pairs?kept=yes&reason=&q=&min.explicit_margin=&max.explicit_margin=2&sort=&size=10&page=2"
    )
    assert answer.status_code == 303
    assert answer.headers["location"] == "/run/whole/round/1/pairs?kept=yes&max.explicit_margin=2&page=2"


def test_a_filter_that_is_wrong_gives_its_hint(client: TestClient) -> None:
    for query, words in {
        "where=nothing+%3E+1": "there is no column",
        "where=__import__('os').system('x')": "does not exist",
        "where=kept+%3D%3D": "invalid SQL",
        "sort=nothing": "Available",
        "page=x": "page",
    }.items():
        answer = client.get(f"/run/whole/round/1/pairs?{query}")
        assert answer.status_code == 400
        assert words in html.unescape(answer.text)
        assert "Traceback" not in answer.text
    assert client.get("/run/whole/round/1/pair").status_code == 400


def test_the_error_of_a_condition_stands_beside_its_field(client: TestClient) -> None:
    answer = client.get("/run/whole/round/1/pairs?kept=yes&where=kept+%3D%3D")
    page = Page(answer.text)
    field = next(a for tag, a in page.elements if tag == "input" and a.get("name") == "where")
    assert (field["value"], field["aria-invalid"], field["aria-describedby"]) == (
        "kept ==",
        "true",
        "where-error where-help",
    )
    assert any(a.get("id") == "where-error" for _, a in page.elements)
    assert "without this condition" in page.text and "of 11 pairs" in page.text  # those that are kept are shown


def test_one_pair_among_its_neighbours(get: Get) -> None:
    first = Page(get("/run/whole/round/1/pairs?kept=no&sort=explicit_margin"))
    links = [link for link in first.links() if "/pair?" in link]
    seen = []
    path: str | None = links[0]
    while path is not None:
        page = Page(get(path))
        seen.append(path)
        following = [a for tag, a in page.elements if tag == "a" and a.get("rel") == "next"]
        path = following[0]["href"] if following else None
    assert seen == links
    assert f"{len(seen)} of {len(seen)} that match" in page.text
    assert "not among the" in Page(get(links[0].replace("kept=no", "kept=yes"))).text


def test_all_responses_of_a_prompt(get: Get) -> None:
    page = Page(get("/run/whole/round/1/pair?id=p1-002-r001-2-1"))
    assert "All responses of this prompt" in page.text
    assert [a["id"] for _, a in page.elements if (a.get("id") or "").startswith("response-")] == [
        f"response-{n}" for n in range(4)
    ]
    assert page.text.count("in no pair: not_extreme") == 2
    assert "Policy log-prob" in page.text
    dropped = Page(get("/run/whole/round/1/prompt?id=p1-011")).text
    assert "too_long_for_context" in dropped
    unscored = Page(get("/run/whole/round/1/prompt?id=p1-003")).text
    assert "reward_not_finite" in unscored
    begun = Page(get("/run/begun/round/1/prompt?id=p1-002")).text
    assert "Responses" in begun


def test_round_against_round(get: Get, client: TestClient) -> None:
    page = Page(get("/run/whole/against"))
    assert "6 went up and 0 went down" in page.text
    assert "Round 0 against round 2" in page.text
    link = next(link for link in page.links() if "id=" in link)
    one = Page(get(link)).text
    assert "Sampled 1" in one
    assert "Greedy" in one
    assert Page(get("/run/whole/against?a=1&b=2&by=reward&order=better")).text.count("Change") == 1
    assert client.get("/run/whole/against?a=0&b=9").status_code == 404
    assert client.get("/run/whole/against?by=__class__").status_code == 400
    assert client.get("/run/whole/against?kind=training").status_code == 404


def test_training_prompts_are_compared_where_rounds_share_them(tmp_path: Path) -> None:
    store = make_run(tmp_path / "same")
    attempt = store.layout.attempt(1) / "attempt.json"
    rewrite(attempt, lambda document: document["config"]["prompts"].update(order="same"))
    client = client_of(tmp_path / "same")
    page = Page(client.get("/run/same/against?kind=training&a=1&b=2").text)
    # make_run's prompts have other ids in each round: nothing is shared, and that is said
    assert "Of 0 training prompts" in page.text
    one = Page(client.get("/run/same/against?kind=training&a=1&b=1&id=p1-002").text)
    assert "Sampled 4" in one.text


def test_a_result_of_select(get: Get) -> None:
    assert "explicit_margin" in get("/select/chosen")
    text = get("/select/chosen/pairs")
    assert text.count("<article") == 10
    assert Page(text).text.index("#1 ") < Page(text).text.index("#4 ")
    kept = get("/select/chosen/pairs?kept=yes")
    assert kept.count("<article") == 4
    link = next(link for link in Page(kept).links() if "/pair?" in link)
    assert "1 of 4" in Page(get(link)).text


ALERT = "<script>alert(1)</script>"
HOSTILE_PAGES = [
    "/run/nasty/round/1/pairs", "/run/nasty/round/1/pairs?size=25", "/run/nasty/round/1/prompt?id=p1-000",
    "/run/nasty/round/1", "/run/nasty/against", "/run/nasty/against?id=p0-000", "/select/chosen/pairs",
    f"/run/nasty/round/1/pairs?q={ALERT}", "/run/nasty/round/1/pairs?where=contains(chosen,'<script>')",
    f'/run/nasty/round/1/pairs?reason=">{ALERT}', f"/run/{ALERT}", f"/run/nasty/round/1/pair?id={ALERT}",
    f"/run/nasty/round/1/pairs?sort={ALERT}",
]  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE_PAGES)
def test_hostile_texts_stay_texts(client: TestClient, path: str) -> None:
    text = client.get(path).text
    page = Page(text)
    scripts = [attributes for tag, attributes in page.elements if tag == "script"]
    assert scripts == [{"src": "/static/viewer.js", "defer": None}]
    assert not [1 for tag, _ in page.elements if tag in ("img", "iframe", "object", "embed", "base", "style")]
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        assert not (attributes.get("href") or "").strip().lower().startswith(("javascript:", "data:"))
    for character in "\x1b\x07\x00\u202e\u2066\x9b\U000e0041":
        assert character not in text, f"U+{ord(character):04X}"


def test_the_hostile_text_is_shown(get: Get) -> None:
    text = get("/run/nasty/round/1/prompt?id=p1-000")
    assert "&lt;script&gt;window.owned = 1&lt;/script&gt;" in text
    assert 'dir="auto"' in text
    assert "ESC" in text


# ------------------------------------------------------------------------------------------------- what is damaged


@pytest.fixture
def damaged(runs: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    for name in (
        "good",
        "newer",
        "torn",
        "list",
        "no_config",
        "odd_config",
        "no_commit",
        "cut",
        "half",
        "attempts",
        "odd_metrics",
    ):
        shutil.copytree(runs / "whole", folder / name)
    rewrite(folder / "newer" / "RUN.json", lambda document: document.update(schema_version=999))
    (folder / "torn" / "RUN.json").write_bytes(b'{"id": "\xff')
    (folder / "list" / "RUN.json").write_text("[]")
    shutil.rmtree(folder / "no_config" / "config")
    shutil.rmtree(folder / "no_config" / "attempts")
    shutil.rmtree(folder / "odd_config" / "attempts")
    (folder / "odd_config" / "config" / "resolved.json").write_text('{"rounds": null}')
    (folder / "no_commit" / "rounds" / "001" / "select" / ".COMMIT.json").unlink()
    shard = folder / "cut" / "rounds" / "001" / "select" / "part-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    (folder / "half" / "rounds" / "002" / "evaluate" / ".COMMIT.json").write_text("{")
    (folder / "attempts" / "attempts" / "0001" / "attempt.json").write_text("{")
    (folder / "odd_metrics" / "rounds" / "002" / "evaluate" / ".metrics.json").write_text("[" * 100_000)
    shutil.copytree(runs / "chosen", folder / "chosen_torn")
    (folder / "chosen_torn" / "summary.json").write_text("{")
    shutil.copytree(runs / "chosen", folder / "chosen_newer")
    (folder / "chosen_newer" / "summary.json").write_text('{"schema": 999}')
    (folder / "empty").mkdir()
    (folder / "a file").write_text("x")
    (folder / "skeleton" / "config").mkdir(parents=True)
    (folder / "dangling").symlink_to(folder / "nowhere")
    return folder


def test_one_damaged_run_hides_no_other(damaged: Path) -> None:
    client = client_of(damaged)
    answer = client.get("/")
    assert answer.status_code == 200
    page = Page(answer.text)
    for path in sorted(damaged.iterdir()):
        if path.name not in ("empty", "a file", "skeleton", "dangling"):
            assert f"/{path.name}" in answer.text, path.name
    assert page.text.count("cannot be read") >= 6
    assert "schema version 999" in page.text
    assert "complete" in page.text
    for path in damaged.iterdir():
        for address in (
            f"/run/{path.name}",
            f"/run/{path.name}/round/1",
            f"/run/{path.name}/round/1/pairs",
            f"/select/{path.name}",
        ):
            text = client.get(address).text
            assert "Traceback" not in text, address
    assert client.get("/run/cut/round/1/pairs").status_code == 500
    assert "its manifest says" in client.get("/run/cut/round/1/pairs").text
    assert "Damage of its files" in client.get("/run/cut").text
    assert client.get("/run/good/round/1/pairs").status_code == 200


def test_what_is_committed_later_is_seen(tmp_path: Path) -> None:
    make_run(tmp_path / "run", rounds=1)
    client = client_of(tmp_path)
    assert "quite another text" not in client.get("/run/run/round/1/pairs?size=25").text
    shutil.rmtree(tmp_path / "run")
    make_run(tmp_path / "run", rounds=2, stop=(2, "evaluate"), text="quite another text")
    assert "quite another text" in client.get("/run/run/round/1/pairs?size=25").text
    assert client.get("/run/run/round/2").status_code == 200


@pytest.mark.parametrize("page", ["/", "/run/run", "/run/run/round/1", "/run/run/round/1/pairs"])
def test_what_was_deleted_meanwhile_is_not_a_bug(tmp_path: Path, page: str) -> None:
    make_run(tmp_path / "run", rounds=1)
    client = client_of(tmp_path / "run")
    assert client.get("/run/run").status_code == 200
    shutil.rmtree(tmp_path / "run")
    answer = client.get(page)
    assert answer.status_code == 404
    assert f"cannot read {tmp_path}/run: No such file or directory" in answer.text and "bug" not in answer.text


def test_a_large_round_is_shown_before_it_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "run", rounds=1)
    monkeypatch.setattr("selfplay.inspect.viewer.rounds.AT_ONCE", 0)
    go = threading.Event()
    show = rounds.show_document

    def slow(*arguments: Any, tables: bool) -> Any:
        if tables:
            assert go.wait(60)
        return show(*arguments, tables=tables)

    monkeypatch.setattr("selfplay.inspect.viewer.rounds.show_document", slow)
    client = client_of(tmp_path / "run")
    first = Page(client.get("/run/run/round/1").text).text
    assert "are being counted" in first
    assert "From prompts to kept pairs" in first
    assert "Explicit margin" not in first
    go.set()
    while "are being counted" in (text := Page(client.get("/run/run/round/1").text).text):
        time.sleep(0.05)
    assert "Explicit margin" in text


def test_what_fails_beside_the_requests_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "run", rounds=1)
    monkeypatch.setattr("selfplay.inspect.viewer.rounds.AT_ONCE", 0)
    shard = tmp_path / "run" / "rounds" / "001" / "score" / "part-00000.parquet"
    data = shard.read_bytes()
    shard.write_bytes(b"\0" * len(data))
    client = client_of(tmp_path / "run")
    while (answer := client.get("/run/run/round/1")).status_code == 200:
        time.sleep(0.05)
    assert answer.status_code == 500
    assert "score/part-00000.parquet" in Page(answer.text).text
