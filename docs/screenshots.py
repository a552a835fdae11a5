"""The README's pictures, made from a run: `python docs/screenshots.py runs/quickstart` (or `make screenshots`).

Needs playwright and a Chromium: the system's own, or the one that `playwright install chromium` fetches. Everything that a
page says on the console or asks of a network is a failure, so a run of it is also a check.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from selfplay.report.contents import gather
from selfplay.report.writing import html
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
        "request", lambda request: complaints.append(f"request: {request.url}") if request.url != shot.address else None
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


def main() -> None:
    """All pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run, as of `make quickstart`")
    run = parser.parse_args().run
    IMAGES.mkdir(exist_ok=True)
    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        for shot in report_shots(run, Path(folder)):
            take(browser, shot)
            size = (IMAGES / f"{shot.name}.png").stat().st_size
            print(f"docs/images/{shot.name}.png {size / 1000:.0f} kB")
        browser.close()


if __name__ == "__main__":
    main()
