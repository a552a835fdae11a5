"""A real browser for tests of pages: Chromium by Playwright, where both are installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest


def chromium() -> Iterator[object]:
    """A headless Chromium; skips, saying so, where there is none. What it checks of a page's text is checked without it too."""
    api = pytest.importorskip("playwright.sync_api", reason="no browser here: playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no browser here: neither chromium nor google-chrome is on the path")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()
