"""The README's pictures, made from a run: `python docs/screenshots.py runs/quickstart` (or `make screenshots`).

Needs playwright and a Chromium: the system's own, or the one that `playwright install chromium` fetches. Everything that a
page says on the console or asks of a network is a failure, so a run of it is also a check.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, sync_playwright

from selfplay.inspect.report.contents import gather
from selfplay.inspect.report.writing import html
from selfplay.store.run import Store

IMAGES = Path(__file__).parent / "images"
LAPTOP, PHONE = (1280, 900), (390, 844)


@dataclass(frozen=True)
class Shot:
    """A picture: what is shown (a page's address), from which element on, how large, in which colours."""

    name: str
    address: str
    size: tuple[int, int]
    dark: bool = False
    start: str = ""


def report_shots(run: Path, folder: Path) -> Iterator[Shot]:
    """Of the report, written anew from the run's commits."""
    page = folder / "report.html"
    page.write_text(html(gather(Store.open(run))), encoding="utf-8")
    address = page.as_uri()
    yield Shot("report", address, (1280, 1180))
    yield Shot("report-dark", address, (1280, 1180), dark=True)
    yield Shot("report-round", address, (1280, 1180), start="details.round")
    yield Shot("report-phone", address, PHONE, dark=True, start="#questions")


def viewer_shots(run: Path) -> Iterator[Shot]:
    """Of the viewer, served while the pictures are taken."""
    command = [sys.executable, "-m", "selfplay", "view", str(run), "--port", "0", "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            address = f"{process.stdout.readline().strip()}run/{run.resolve().name}"
            last = Store.open(run).rounds()[-1]
            pairs = f"{address}/round/{last}/pairs"
            yield Shot("viewer", f"{pairs}?min.explicit_margin=1", (1280, 900))
            yield Shot("viewer-dark", f"{pairs}?min.explicit_margin=1", (1280, 900), dark=True)
            yield Shot("viewer-rounds", f"{address}/against?a=0&b={last}&order=better", (1280, 900))
            yield Shot("viewer-phone", pairs, PHONE, dark=True, start="article")
        finally:
            process.terminate()


def take(browser: Browser, shot: Shot) -> None:
    """One picture into docs/images. Raises SystemExit for a page that complains or asks for anything but itself."""
    context = browser.new_context(
        viewport={"width": shot.size[0], "height": shot.size[1]}, color_scheme="dark" if shot.dark else "light"
    )
    page: Page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    page.on(
        "request",
        lambda request: None if _is_own(request.url, shot.address) else complaints.append(f"request: {request.url}"),
    )
    page.goto(shot.address)
    if shot.start:
        page.locator(shot.start).first.evaluate(
            "element => window.scrollTo(0, element.getBoundingClientRect().top - 44)"
        )
    width = page.evaluate("document.documentElement.scrollWidth")
    if width > shot.size[0]:
        complaints.append(f"the page is {width} wide")
    if complaints:
        raise SystemExit(f"{shot.name}: " + "; ".join(complaints))
    page.screenshot(path=IMAGES / f"{shot.name}.png")
    context.close()


def _is_own(url: str, address: str) -> bool:
    """Whether a page at the address may ask for it: a file for itself, a served page for what its server has."""
    one, other = urlsplit(url), urlsplit(address)
    return url == address or (other.scheme == "http" and one[:2] == other[:2])


def main() -> None:
    """All pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run, as of `make quickstart`")
    run = parser.parse_args().run
    IMAGES.mkdir(exist_ok=True)
    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        for shot in chain(report_shots(run, Path(folder)), viewer_shots(run)):
            take(browser, shot)
            size = (IMAGES / f"{shot.name}.png").stat().st_size
            print(f"docs/images/{shot.name}.png {size / 1000:.0f} kB")
        browser.close()


if __name__ == "__main__":
    main()
