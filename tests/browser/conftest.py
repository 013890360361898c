"""A headless Chromium, and pages in it of which no one may ask for a network, or report an error.

CHARRNN_CHROMIUM names the browser, else one on PATH is used. Without any, these tests are skipped; with CI=true they
fail."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    OpenPage = Callable[..., Page]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder: they run with -m browser only."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


def missing(sentence: str) -> Any:
    """Skip, or fail where everything is to be tested."""
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(sentence)
    pytest.skip(sentence)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Start Chromium once."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("Playwright is not installed. make browser installs it.")
    named = os.environ.get("CHARRNN_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        missing("There is no Chromium here. Install one, or name it in CHARRNN_CHROMIUM.")
    root = hasattr(os, "geteuid") and os.geteuid() == 0  # for whom Chromium has no sandbox
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=[*QUIET, *["--no-sandbox"] * root])
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path) -> Iterator[OpenPage]:
    """Give a function that opens a page: a file, or a text that becomes one. `settings` are those of a browser context,
    such as viewport or color_scheme. At the end none may have logged a warning or an error, raised one, or asked for
    anything but its own file."""
    opened: list[Any] = []
    troubles: list[str] = []

    def open_page(page: Path | str, **settings: Any) -> Page:
        if isinstance(page, str):
            path = tmp_path / f"page-{len(opened)}.html"
            path.write_text(page, "utf-8")
            page = path
        context = browser.new_context(**settings)
        opened.append(context)
        tab, address = context.new_page(), page.absolute().as_uri()
        tab.on("console", lambda said: troubles.append(said.text) if said.type in {"warning", "error"} else None)
        tab.on("pageerror", lambda error: troubles.append(str(error)))
        tab.on("request", lambda asked: troubles.append(f"asked for {asked.url}") if asked.url != address else None)
        tab.goto(address)
        return tab

    yield open_page
    for context in opened:
        context.close()
    assert troubles == []
