"""A real Chromium that looks at a page: what its console says, what it asks for, whether anything is cut off."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

WIDTHS = (1280, 390)
REFUSED = re.compile(r"Failed to load resource: the server responded with a status of [45]\d\d")
"""What the console says of an answer that a test provoked."""

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]

CUT_OFF = """() => {
  const hidden = [];
  for (const e of document.querySelectorAll('body *')) {
    const style = getComputedStyle(e), box = e.getBoundingClientRect();
    if (!box.width || style.visibility === 'hidden' || e.closest('svg') && e.tagName !== 'svg') continue;
    let frame = e.parentElement, scrolls = false;
    for (; frame && !scrolls; frame = frame.parentElement)
      scrolls = ['auto', 'scroll'].includes(getComputedStyle(frame).overflowX);
    if (!scrolls && (box.right > innerWidth + 1 || box.left < -1)) hidden.push(e.tagName + ' ' + e.className);
    if (style.overflowX === 'hidden' && e.scrollWidth > e.clientWidth + 1) hidden.push('hides ' + e.tagName);
  }
  return {wider: document.documentElement.scrollWidth - innerWidth, hidden};
}"""


class Seen(NamedTuple):
    """What a page did."""

    errors: list[str]
    outside: list[str]
    wider: int
    hidden: list[str]


@contextmanager
def chromium() -> Iterator[object]:
    """A browser of Playwright's; the test is skipped where the machine has none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium on this machine: apt install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def visiting(browser, url: str, width: int = WIDTHS[0]) -> Iterator[object]:
    """A page with no history that is to show the server at `url`; what it must never do fails the block at its end."""
    context = browser.new_context(viewport={"width": width, "height": 900})
    context.set_default_timeout(15_000)
    page, amiss = context.new_page(), []
    page.on("console", lambda message: None if REFUSED.match(message.text) else amiss.append(message.text))
    page.on("pageerror", lambda error: amiss.append(str(error)))
    page.on("requestfailed", lambda request: amiss.append(f"failed: {request.url}"))
    page.on("request", lambda r: None if r.url.startswith((url, "data:")) else amiss.append(f"outside: {r.url}"))
    yield page
    context.close()
    assert amiss == []


def look(browser, file: Path, width: int, screenshot: Path | None = None) -> Seen:
    """Open a file at a width."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    errors, outside = [], []
    page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("requestfailed", lambda request: errors.append(f"failed: {request.url}"))
    page.on("request", lambda r: outside.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
    page.goto(file.as_uri())
    told = page.evaluate(CUT_OFF)
    if screenshot:
        page.screenshot(path=str(screenshot), full_page=True)
    page.close()
    return Seen(errors, outside, told["wider"], told["hidden"])
