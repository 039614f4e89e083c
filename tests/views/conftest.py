# SPDX-License-Identifier: LGPL-2.1-or-later
"""One browser for each module of tests, and pages of ``report`` opened in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from drgn_unaccepted.answer.best_source import judge
from drgn_unaccepted.answer.documents import HistoryAnswer
from drgn_unaccepted.commands.report import report
from drgn_unaccepted.snapshot import Snapshot
from drgn_unaccepted.views.report import report_page
from tests.views.pages import chromium
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens the page of a snapshot; at the end of the test nothing may have been logged."""

    def open_page(
        snapshot: Snapshot,
        place: str = "",
        past: Optional[HistoryAnswer] = None,
        scripts: bool = True,
        dark: bool = False,
    ) -> Any:
        path = tmp_path / "report.html"
        path.write_text(report_page(report(snapshot, judge(snapshot), past=past)), encoding="utf-8")
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": scheme})
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
        browser.get("about:blank")
        browser.get(f"{path.as_uri()}{place}")
        if scripts:
            ready = "return document.documentElement.dataset.ready"
            wait_for(lambda: browser.execute_script(ready) == "true", lambda: browser.get_log("browser"))
        return browser

    yield open_page
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert browser.get_log("browser") == []
