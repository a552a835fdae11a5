"""The run of hostile texts that the benchmark measures: it is sound, and in a real browser none of its texts does anything."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from benchmarks.hostile_run import HOSTILE, make
from selfplay.cli.main import app
from tests.helpers.viewing import client_of

PAGES = (
    "/", "/run/run", "/run/run/round/1", "/run/run/round/0", "/run/run/round/1/pairs?size=50",
    "/run/run/round/1/pairs?q=script&sort=num_tokens_chosen", "/run/run/round/1/pair?id={pair}",
    "/run/run/round/1/prompt?id=p00000003",
    "/run/run/against", "/run/run/against?id=e00000003",
)  # fmt: skip


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    make(folder / "run", 400)
    return folder


def pages(folder: Path) -> list[str]:
    ids = pq.read_table(folder / "run" / "rounds" / "001" / "select" / "part-00000.parquet", columns=["pair_id"])
    return [path.format(pair=ids["pair_id"][0].as_py()) for path in PAGES]


def test_it_verifies(hostile: Path) -> None:
    done = CliRunner().invoke(app, ["verify", str(hostile / "run"), "--deep"])
    assert done.exit_code == 0, done.stdout + done.stderr


def test_no_page_has_a_hostile_text_as_it_is(hostile: Path) -> None:
    client = client_of(hostile)
    for path in pages(hostile):
        answer = client.get(path)
        assert answer.status_code == 200, path
        for text in HOSTILE:
            assert not (text and ("<" in text or '"' in text) and text in answer.text), path
        assert not {*"\x00\x07\x08\x1b\x7f\x9b\u00ad\u200b\u202e\u2028\u2066\ufeff\U000e0041"} & {*answer.text}, path


@pytest.fixture(scope="module")
def address(hostile: Path) -> Iterator[str]:
    """A viewer as a process: a browser needs one."""
    command = [sys.executable, "-m", "selfplay", "view", str(hostile), "--port", "0", "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip().rstrip("/")
        process.terminate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="no browser here: playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no browser here: neither chromium nor google-chrome is on the path")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_no_script_of_a_text_runs_and_nothing_is_asked_elsewhere(
    hostile: Path, address: str, browser: Any, width: int
) -> None:
    # without the policy too: escaping alone must hold
    context = browser.new_context(viewport={"width": width, "height": 900}, bypass_csp=width == 390)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: said.append(request.url) if not request.url.startswith(address) else None)
    for path in pages(hostile):
        page.goto(address + path)
        assert page.evaluate("window.owned") is None, path
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), path
    assert said == []
    context.close()


def test_keys_go_through_the_pairs(address: str, browser: Any) -> None:
    page = browser.new_page()
    page.goto(f"{address}/run/run/round/1/pairs")
    links = page.locator("a[data-step]").evaluate_all("found => found.map(link => link.href)")
    for key, at in (("j", 0), ("j", 1), ("k", 0)):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.href") == links[at]
    page.keyboard.press("Enter")
    page.wait_for_url(links[0])
    page.keyboard.press("j")
    page.wait_for_url(links[1].partition("&")[0])
    page.keyboard.press("u")
    page.wait_for_url("**/pairs")
    page.keyboard.press("/")
    page.keyboard.type("jk")
    assert page.evaluate("document.activeElement.value") == "jk"
    page.close()
