"""A real browser without a window, for tests and pictures: the Chromium of this machine, driven by playwright."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ("--no-sandbox", "--no-first-run", "--disable-quic", "--disable-background-networking")
QUIET += ("--disable-component-update", "--disable-sync")
SOFTWARE_GL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")  # the viewer's page needs WebGL


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A playwright browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=[*QUIET, *SOFTWARE_GL])
        try:
            yield browser
        finally:
            browser.close()
