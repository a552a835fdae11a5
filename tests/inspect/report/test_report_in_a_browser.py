"""The report of a hostile run in a real Chromium: nothing of theirs runs, nothing is asked for, nothing is wider than a phone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from selfplay.inspect.report.contents import gather
from selfplay.inspect.report.writing import html
from tests.helpers.browser import chromium
from tests.helpers.make_run import HOSTILE, make_run

EVIL = (
    HOSTILE
    + "<script>document.title = 'owned'</script><img src='https://127.0.0.1:9/x.png' onerror=\"document.title='owned'\">"
    "</p></td></div></main><svg onload=\"document.title='owned'\"><style>body{display:none}</style>" + "w" * 3000
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from chromium()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    report = gather(make_run(tmp_path_factory.mktemp("hostile") / "run", text=EVIL))
    # one of the examples, whatever the seed chose
    report.details[0].kept[0]["chosen"] = report.details[0].kept[0]["prompt"] = [{"role": "user", "content": EVIL}]
    page = tmp_path_factory.mktemp("pages") / "report.html"
    page.write_text(html(report), encoding="utf-8")
    return page.as_uri()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_a_hostile_report_is_calm(browser: Any, address: str, scheme: str, width: int) -> None:
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url))
    page.goto(address)
    page.evaluate("document.querySelectorAll('details').forEach(element => { element.open = true })")
    assert said == [address]
    assert page.title() == "run: selfplay report"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("script, img, iframe").count() == 0
    assert page.locator("svg[role=img]").count() > 20
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 21, 28)"
    assert dark == (scheme == "dark")
    # what a fault of ours let through would still not run
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"document.title=1\">')")
    page.wait_for_timeout(100)
    assert page.title() == "run: selfplay report"
    assert any("Content Security Policy" in text for text in said)
    context.close()
